"""A pool of Python processes with the package `wasmtime`: each keeps one instance of a ProcessStdio guest, which reads
and writes bounded memory.

    pool.py prepare GUEST COMPILED
    pool.py run COMPILED PROCESSES INPUT OUTPUT
"""

import multiprocessing
import os
import struct
import sys

from wasmtime import Engine, Func, FuncType, Linker, Module, Store, ValType, WasiConfig


class Guest:
    """One instance with its streams."""

    def __init__(self, compiled):
        engine = Engine()
        module = Module.deserialize_file(engine, compiled)
        self.store = Store(engine)
        self.store.set_wasi(WasiConfig())
        linker = Linker(engine)
        linker.allow_shadowing = True
        linker.define_wasi()
        four = FuncType([ValType.i32()] * 4, [ValType.i32()])
        for name, answer in (("fd_read", self.fd_read), ("fd_write", self.fd_write)):
            linker.define(self.store, "wasi_snapshot_preview1", name, Func(self.store, four, answer))
        exports = linker.instantiate(self.store, module).exports(self.store)
        self.memory, self.process = exports["memory"], exports["ProcessStdio"]
        self.input, self.at, self.output = b"", 0, []
        for name in ("_initialize", "_start"):
            if name in exports:
                exports[name](self.store)
                break

    def buffers(self, at, count):
        words = struct.unpack(f"<{2 * count}I", self.memory.read(self.store, at, at + 8 * count))
        return zip(words[::2], words[1::2])

    def fd_read(self, fd, at, count, result):
        total = 0
        for start, length in self.buffers(at, count):
            part = self.input[self.at : self.at + length]
            self.memory.write(self.store, part, start)
            self.at += len(part)
            total += len(part)
        self.memory.write(self.store, struct.pack("<I", total), result)
        return 0

    def fd_write(self, fd, at, count, result):
        total = 0
        for start, length in self.buffers(at, count):
            if fd == 1:
                self.output.append(self.memory.read(self.store, start, start + length))
            total += length
        self.memory.write(self.store, struct.pack("<I", total), result)
        return 0

    def answer(self, content):
        self.input, self.at, self.output = content, 0, []
        self.process(self.store, len(content))
        return b"".join(self.output)[4:]


guest = None


def begin(compiled):
    global guest
    guest = Guest(compiled)


def work(paths):
    source, target = paths
    with open(source, "rb") as file:
        answer = guest.answer(file.read())
    unfinished = f"{os.path.dirname(target)}/.unfinished-{os.getpid()}"
    with open(unfinished, "wb") as file:
        file.write(answer)
    os.rename(unfinished, target)


def main():
    if sys.argv[1] == "prepare":
        with open(sys.argv[2], "rb") as source, open(sys.argv[3], "wb") as target:
            content = source.read()
            module = Module(Engine(), content if content.startswith(b"\0asm") else content.decode())
            target.write(module.serialize())
        return
    compiled, processes, source, target = sys.argv[2:]
    paths = [(f"{source}/{name}", f"{target}/{name}") for name in os.listdir(source)]
    with multiprocessing.Pool(int(processes), begin, (compiled,)) as pool:
        for _ in pool.imap_unordered(work, paths, chunksize=max(1, min(64, len(paths) // 64))):
            pass


if __name__ == "__main__":
    main()
