//! Counts the words of an input.
const std = @import("std");
const distwasm = @import("distwasm.zig");

/// Called for each input: one instance answers all of them, and globals keep their values.
export fn ProcessStdio(size: i32) void {
    distwasm.answerUnit(size, answer);
}

/// Answers one input. The report shows the text that `fail` is given.
fn answer(input: []const u8, result: *distwasm.Result) error{Failed}!void {
    var words = std.mem.tokenizeAny(u8, input, &std.ascii.whitespace);
    var count: usize = 0;
    while (words.next()) |_| count += 1;
    if (count == 0) return result.fail("there is no word in it", .{});
    result.print("{d} words\n", .{count});
}
