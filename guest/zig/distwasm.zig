//! What a guest program of distwasm written in Zig imports.
//!
//! A guest is a function from the bytes of an input to the bytes of a result. Define it, and compile:
//!
//!     const distwasm = @import("distwasm.zig");
//!
//!     export fn ProcessStdio(size: i32) void {
//!         distwasm.answerUnit(size, answer);
//!     }
//!
//!     fn answer(input: []const u8, result: *distwasm.Result) error{Failed}!void {
//!         if (input.len == 0) return result.fail("nothing to count", .{});
//!         result.print("{d} bytes beginning with {c}\n", .{ input.len, input[0] });
//!     }
//!
//!     zig build-exe program.zig -target wasm32-wasi -fno-entry --export=ProcessStdio -O ReleaseSmall
//!
//! This is a ProcessStdio guest: one instance lives on from unit to unit, and globals keep what they hold. For a plain
//! command, with a fresh instance for each unit, call `distwasm.answerCommand(answer)` in `main`, and leave out the
//! flags `-fno-entry` and `--export`.
//!
//! A unit that fails ends its instance with status 1, its text on stderr and from there in the report. Panics fail the
//! unit, too. Only what every Zig since 0.14 has is used here, because Zig's library still changes from version to
//! version.
const std = @import("std");

const allocator = std.heap.wasm_allocator;

/// The function that answers an input. The input is gone after the call. An error is made by `Result.fail`.
pub const Answer = fn (input: []const u8, result: *Result) error{Failed}!void;

/// The answer to one unit. It begins empty; the methods fill it.
pub const Result = struct {
    bytes: []u8 = &.{},
    size: usize = 0,
    /// Why there is none; empty if there is one.
    why: []const u8 = "",

    /// Adds bytes to the answer.
    pub fn append(result: *Result, bytes: []const u8) void {
        @memcpy(result.extend(bytes.len), bytes);
    }

    /// Adds text to the answer, as `std.fmt` writes it.
    pub fn print(result: *Result, comptime format: []const u8, args: anytype) void {
        _ = std.fmt.bufPrint(result.extend(@intCast(std.fmt.count(format, args))), format, args) catch unreachable;
    }

    /// Adds room for so many bytes to the answer, to be filled before anything else is added.
    pub fn extend(result: *Result, size: usize) []u8 {
        const needed = std.math.add(usize, result.size, size) catch exit("the result is too long");
        if (needed > result.bytes.len) {
            result.bytes = reallocated(result.bytes, needed + needed / 2);
        }
        defer result.size = needed;
        return result.bytes[result.size..needed];
    }

    /// Says why there is no answer. For `return result.fail(...)`.
    pub fn fail(result: *Result, comptime format: []const u8, args: anytype) error{Failed} {
        result.why = std.fmt.allocPrint(allocator, format, args) catch "out of memory";
        return error.Failed;
    }
};

/// Answers one unit of `size` bytes: the length of the result, 32 bits, little-endian, and the result.
pub fn answerUnit(size: i32, answer: Answer) void {
    const input = read(@intCast(size));
    if (input.len != size) exit("the input ended too early");
    const result = answered(input, answer);
    if (result.size > std.math.maxInt(i32)) exit("the result is too long");
    var head: [4]u8 = undefined;
    std.mem.writeInt(u32, &head, @intCast(result.size), .little);
    write(1, &head);
    write(1, result.bytes[0..result.size]);
    allocator.free(result.bytes);
}

/// Answers all of stdin on stdout.
pub fn answerCommand(answer: Answer) void {
    const result = answered(read(std.math.maxInt(i32)), answer);
    write(1, result.bytes[0..result.size]);
}

/// Fails the unit from anywhere, at once.
pub fn exit(why: []const u8) noreturn {
    write(2, why);
    write(2, "\n");
    wasi.proc_exit(1);
}

/// The answer to the input, which is freed.
fn answered(input: []u8, answer: Answer) Result {
    var result = Result{};
    answer(input, &result) catch exit(if (result.why.len > 0) result.why else "failed, and did not say why");
    allocator.free(input);
    return result;
}

/// All of stdin, at most `size_max` bytes of it.
fn read(size_max: usize) []u8 {
    var bytes = reallocated(&.{}, @min(size_max, 65536));
    var size: usize = 0;
    while (size < size_max) {
        if (size == bytes.len) bytes = reallocated(bytes, @min(size_max, bytes.len * 2));
        var got: usize = 0;
        const room = [1]Bytes{.{ .start = bytes.ptr + size, .size = bytes.len - size }};
        if (wasi.fd_read(0, &room, 1, &got) != 0) exit("cannot read the input");
        if (got == 0) break;
        size += got;
    }
    return reallocated(bytes, size);
}

fn write(descriptor: i32, bytes: []const u8) void {
    var done: usize = 0;
    while (done < bytes.len) {
        var written: usize = 0;
        const rest = [1]Bytes{.{ .start = bytes.ptr + done, .size = bytes.len - done }};
        if (wasi.fd_write(descriptor, &rest, 1, &written) != 0 or written == 0) wasi.proc_exit(1);
        done += written;
    }
}

fn reallocated(bytes: []u8, size: usize) []u8 {
    return allocator.realloc(bytes, size) catch exit("out of memory");
}

/// Where bytes are, as WASI wants it.
const Bytes = extern struct { start: [*]const u8, size: usize };

const wasi = struct {
    extern "wasi_snapshot_preview1" fn fd_read(descriptor: i32, to: [*]const Bytes, count: usize, got: *usize) u16;
    extern "wasi_snapshot_preview1" fn fd_write(descriptor: i32, from: [*]const Bytes, count: usize, done: *usize) u16;
    extern "wasi_snapshot_preview1" fn proc_exit(status: i32) noreturn;
};
