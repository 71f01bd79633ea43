//! Summer in Zig: reads `A + B`, answers the sum.
const std = @import("std");
const distwasm = @import("distwasm");

const Result = distwasm.Result;
const Failed = error{Failed};

const spaces = " \t\n\x0b\x0c\r";
const shown_max = 60;

/// For a ProcessStdio guest: `-fno-entry --export=ProcessStdio`.
export fn ProcessStdio(size: i32) void {
    distwasm.answerUnit(size, answer);
}

/// For a command, which is what Zig makes without flags.
pub fn main() void {
    distwasm.answerCommand(answer);
}

fn answer(input: []const u8, result: *Result) Failed!void {
    const text = std.mem.trim(u8, input, spaces);
    const plus = plusBetween(text) orelse return result.fail("expected `A + B`, found `{s}{s}`", shown(text));
    const a = try number(text[0..plus], result);
    const b = try number(text[plus + 1 ..], result);
    const sum = std.math.add(i128, a, b) catch
        return result.fail("the sum of {d} and {d} does not fit into 128 bits", .{ a, b });
    result.print("{d}\n", .{sum});
}

/// Where the plus between the numbers is: the first after the first number's own sign and digits.
fn plusBetween(text: []const u8) ?usize {
    for (text, 0..) |letter, at| {
        if (letter != '+' or at == 0) continue;
        if (std.ascii.isDigit(text[at - 1]) or std.mem.indexOfScalar(u8, spaces, text[at - 1]) != null) return at;
    }
    return null;
}

fn number(untrimmed: []const u8, result: *Result) Failed!i128 {
    const text = std.mem.trim(u8, untrimmed, spaces);
    const is_negative = text.len > 0 and text[0] == '-';
    const digits = text[@intFromBool(text.len > 0 and (text[0] == '-' or text[0] == '+'))..];
    for (digits) |digit| if (!std.ascii.isDigit(digit)) return notAnInteger(text, result);
    if (digits.len == 0) return notAnInteger(text, result);
    var value: i128 = 0;
    for (digits) |digit| {
        value = appended(value, digit, is_negative) catch
            return result.fail("`{s}{s}` does not fit into 128 bits", shown(text));
    }
    return value;
}

/// The number with one more digit. Downwards for negative numbers, which reach one further than positive ones.
fn appended(value: i128, digit: u8, is_negative: bool) !i128 {
    const tenfold = try std.math.mul(i128, value, 10);
    return if (is_negative) std.math.sub(i128, tenfold, digit - '0') else std.math.add(i128, tenfold, digit - '0');
}

fn notAnInteger(text: []const u8, result: *Result) Failed {
    return result.fail("`{s}{s}` is not an integer", shown(text));
}

/// For "`{s}{s}`": as much of a text as an error shows.
fn shown(text: []const u8) struct { []const u8, []const u8 } {
    return if (text.len <= shown_max) .{ text, "" } else .{ text[0..shown_max], "..." };
}
