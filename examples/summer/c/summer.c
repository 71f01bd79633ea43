/* Summer in C: reads `A + B`, answers the sum. */
#include "distwasm.h"

#include <stdbool.h>

typedef __int128 integer;
typedef unsigned __int128 magnitude;

enum { SHOWN = 60 };

static bool is_space(uint8_t letter) {
    return letter == ' ' || (letter >= '\t' && letter <= '\r');
}

static bool is_digit(uint8_t letter) {
    return letter >= '0' && letter <= '9';
}

/* A piece of the input. */
struct text {
    const uint8_t *start, *end;
};

static struct text trimmed(struct text text) {
    while (text.start < text.end && is_space(*text.start)) text.start++;
    while (text.start < text.end && is_space(text.end[-1])) text.end--;
    return text;
}

/* The plus between the numbers: the first after the first number's own sign and digits. NULL if there is none. */
static const uint8_t *plus_between(struct text text) {
    for (const uint8_t *at = text.start; at < text.end; at++)
        if (at > text.start && *at == '+' && (is_digit(at[-1]) || is_space(at[-1]))) return at;
    return NULL;
}

/* For "`%.*s`%s": how much of a text an error shows. */
static int shown(struct text text) {
    return text.end - text.start <= SHOWN ? (int)(text.end - text.start) : SHOWN;
}

static const char *dots(struct text text) {
    return text.end - text.start <= SHOWN ? "" : "...";
}

static int parse(struct text text, integer *number, struct distwasm_result *result) {
    text = trimmed(text);
    const uint8_t *at = text.start;
    bool negative = at < text.end && *at == '-';
    if (at < text.end && (*at == '-' || *at == '+')) at++;
    if (at == text.end)
        return distwasm_error(result, "`%.*s` is not an integer", shown(text), (const char *)text.start);
    integer parsed = 0;
    bool fits = true;
    for (; at < text.end; at++) {
        if (!is_digit(*at))
            return distwasm_error(
                result, "`%.*s%s` is not an integer", shown(text), (const char *)text.start, dots(text));
        integer digit = *at - '0';
        /* Downwards for negative numbers, which reach one further than positive ones. */
        fits = fits && !__builtin_mul_overflow(parsed, (integer)10, &parsed) &&
               !__builtin_add_overflow(parsed, negative ? -digit : digit, &parsed);
    }
    if (!fits)
        return distwasm_error(
            result, "`%.*s%s` does not fit into 128 bits", shown(text), (const char *)text.start, dots(text));
    *number = parsed;
    return 0;
}

/* printf knows no integers of 128 bits. */
static void print(integer number, struct distwasm_result *result) {
    char digits[48];
    char *at = digits + sizeof digits;
    magnitude rest = number < 0 ? -(magnitude)number : (magnitude)number;
    *--at = '\n';
    do {
        *--at = (char)('0' + (int)(rest % 10));
        rest /= 10;
    } while (rest > 0);
    if (number < 0) *--at = '-';
    distwasm_append(result, at, (size_t)(digits + sizeof digits - at));
}

int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    struct text text = trimmed((struct text){input, input + size});
    const uint8_t *plus = plus_between(text);
    if (plus == NULL)
        return distwasm_error(
            result, "expected `A + B`, found `%.*s%s`", shown(text), (const char *)text.start, dots(text));
    integer a, b, sum;
    if (parse((struct text){text.start, plus}, &a, result) != 0) return 1;
    if (parse((struct text){plus + 1, text.end}, &b, result) != 0) return 1;
    if (__builtin_add_overflow(a, b, &sum)) return distwasm_error(result, "the sum does not fit into 128 bits");
    print(sum, result);
    return 0;
}
