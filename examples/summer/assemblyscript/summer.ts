// Summer in AssemblyScript: reads `A + B`, answers the sum. A ProcessStdio guest for integers of 64 bits.

const PLUS: u8 = 0x2b;
const MINUS: u8 = 0x2d;

/** Answers one unit of `size` bytes: the length of the result, 32 bits, little-endian, and the result. */
export function ProcessStdio(size: i32): void {
  const sum = String.UTF8.encode(answer(readInput(size)).toString() + "\n");
  const length = new ArrayBuffer(4);
  store<u32>(changetype<usize>(length), sum.byteLength);
  process.stdout.write(length);
  process.stdout.write(sum);
}

function readInput(size: i32): Uint8Array {
  const input = new ArrayBuffer(size);
  for (let done = 0; done < size; ) {
    const more = process.stdin.read(input, done);
    if (more == 0) fail("the input ended too early");
    done += more;
  }
  return Uint8Array.wrap(input);
}

function answer(input: Uint8Array): i64 {
  const text = trimmed(input);
  const plus = plusBetween(text);
  if (plus < 0) fail("expected `A + B`, found `" + shortened(text) + "`");
  const a = parse(text.subarray(0, plus));
  const b = parse(text.subarray(plus + 1));
  const sum = a + b;
  // A sum that overflowed has another sign than both numbers.
  if (((a ^ sum) & (b ^ sum)) < 0) fail(`the sum of ${a} and ${b} does not fit into 64 bits`);
  return sum;
}

/** The first plus after the first number's own sign and digits; -1 if there is none. */
function plusBetween(text: Uint8Array): i32 {
  for (let at = 1; at < text.length; at++) {
    if (text[at] == PLUS && (isDigit(text[at - 1]) || isSpace(text[at - 1]))) return at;
  }
  return -1;
}

function parse(untrimmed: Uint8Array): i64 {
  const text = trimmed(untrimmed);
  const negative = text.length > 0 && text[0] == MINUS;
  const start = negative || (text.length > 0 && text[0] == PLUS) ? 1 : 0;
  if (start == text.length) fail("`" + shortened(text) + "` is not an integer");
  // Downwards from 0, because negative numbers reach one further than positive ones.
  let value: i64 = 0;
  let fits = true;
  for (let at = start; at < text.length; at++) {
    if (!isDigit(text[at])) fail("`" + shortened(text) + "` is not an integer");
    const digit = <i64>(text[at] - 0x30);
    fits = fits && value >= (i64.MIN_VALUE + digit) / 10;
    value = value * 10 - digit;
  }
  if (!fits || (!negative && value == i64.MIN_VALUE)) fail("`" + shortened(text) + "` does not fit into 64 bits");
  return negative ? value : -value;
}

function trimmed(text: Uint8Array): Uint8Array {
  let start = 0;
  let end = text.length;
  while (start < end && isSpace(text[start])) start++;
  while (start < end && isSpace(text[end - 1])) end--;
  return text.subarray(start, end);
}

function isDigit(letter: u8): bool {
  return letter >= 0x30 && letter <= 0x39;
}

/** A space, or one of the five from tab to carriage return. */
function isSpace(letter: u8): bool {
  return letter == 0x20 || (letter >= 0x09 && letter <= 0x0d);
}

function shortened(text: Uint8Array): string {
  const shown = String.UTF8.decodeUnsafe(text.dataStart, min(text.length, 60));
  return text.length <= 60 ? shown : shown + "...";
}

/** Ends this instance; the peasant makes a fresh one for the next unit. */
function fail(error: string): void {
  process.stderr.write(error + "\n");
  process.exit(1);
}
