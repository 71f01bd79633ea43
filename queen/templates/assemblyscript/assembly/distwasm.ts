// The library for guest programs of distwasm in AssemblyScript: reads the input, writes the answer, and fails.

@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: i32, buffers: usize, count: i32, size: usize): i32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: i32, buffers: usize, count: i32, size: usize): i32;
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(status: i32): void;

// For WASI: where a buffer is, how long it is, and how much of it was read or written.
const buffer = memory.data(12);

// Answers one unit of `size` bytes: the length of the result, 32 bits, little-endian, and the result.
export function answerUnit(size: i32, answer: (input: Uint8Array) => Uint8Array): void {
  const input = new Uint8Array(size);
  let read = 0;
  while (read < size) {
    store<usize>(buffer, input.dataStart + read);
    store<i32>(buffer, size - read, 4);
    if (fd_read(0, buffer, 1, buffer + 8) != 0) fail("cannot read the input");
    const got = load<i32>(buffer, 8);
    if (got == 0) fail("the input ended too early");
    read += got;
  }
  const result = answer(input);
  const length = new Uint8Array(4);
  store<i32>(length.dataStart, result.length);
  if (!write(1, length) || !write(1, result)) fail("cannot write the result");
}

// Fails the unit at once, for this reason.
export function fail(reason: string): void {
  // If there is no stderr, the exit status has to be enough.
  write(2, Uint8Array.wrap(String.UTF8.encode(reason + "\n")));
  proc_exit(1);
}

// The language calls this when it cannot go on: after an index out of bounds, say, or a `throw`.
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const what = message ? message : "aborted";
  const where = file ? file : "unknown file";
  fail(what + " in " + where + ":" + line.toString() + ":" + column.toString());
}

function write(fd: i32, bytes: Uint8Array): bool {
  let written = 0;
  while (written < bytes.length) {
    store<usize>(buffer, bytes.dataStart + written);
    store<i32>(buffer, bytes.length - written, 4);
    if (fd_write(fd, buffer, 1, buffer + 8) != 0) return false;
    written += load<i32>(buffer, 8);
  }
  return true;
}
