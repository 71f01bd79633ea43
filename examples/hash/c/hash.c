/* Hash in C: which counter makes a SHA-256 that begins with zeros. */
#include "distwasm.h"

#include <stdbool.h>

enum { ZEROS_MAX = 64 };

/* The fractions of the square roots of the first 8 primes. */
static const uint32_t INITIAL[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/* The fractions of the cube roots of the first 64 primes. */
static const uint32_t ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t word, int bits) {
    return word >> bits | word << (32 - bits);
}

/* SHA-256 (FIPS 180-4) of a message of at most 55 bytes, which fits into one block. */
static void sha256(const char *message, size_t size, uint32_t hash[8]) {
    uint8_t block[64] = {0};
    memcpy(block, message, size);
    block[size] = 0x80;
    block[62] = (uint8_t)(size >> 5);
    block[63] = (uint8_t)(size << 3);

    uint32_t schedule[64];
    for (int at = 0; at < 16; at++) {
        const uint8_t *bytes = block + 4 * at;
        schedule[at] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    }
    for (int at = 16; at < 64; at++) {
        uint32_t two = schedule[at - 2], fifteen = schedule[at - 15];
        schedule[at] = (rotated(two, 17) ^ rotated(two, 19) ^ two >> 10) + schedule[at - 7] +
                       (rotated(fifteen, 7) ^ rotated(fifteen, 18) ^ fifteen >> 3) + schedule[at - 16];
    }

    uint32_t a = INITIAL[0], b = INITIAL[1], c = INITIAL[2], d = INITIAL[3];
    uint32_t e = INITIAL[4], f = INITIAL[5], g = INITIAL[6], h = INITIAL[7];
    for (int at = 0; at < 64; at++) {
        uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[at] +
                         schedule[at];
        uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first;
        d = c, c = b, b = a, a = first + second;
    }
    const uint32_t state[8] = {a, b, c, d, e, f, g, h};
    for (int at = 0; at < 8; at++) hash[at] = INITIAL[at] + state[at];
}

/* How many hexadecimal zeros a hash begins with. */
static int zeros_of(const uint32_t hash[8]) {
    int zeros = 0;
    while (zeros < ZEROS_MAX && (hash[zeros / 8] >> (28 - zeros % 8 * 4) & 15) == 0) zeros++;
    return zeros;
}

static uint64_t find(int64_t a, int64_t zeros) {
    char message[48];
    int start = snprintf(message, sizeof message, "%lld", (long long)a);
    for (uint64_t counter = 1;; counter++) {
        char digits[20];
        char *at = digits + sizeof digits;
        for (uint64_t rest = counter; rest > 0; rest /= 10) *--at = (char)('0' + rest % 10);
        size_t size = (size_t)(digits + sizeof digits - at);
        memcpy(message + start, at, size);
        uint32_t hash[8];
        sha256(message, (size_t)start + size, hash);
        if (zeros_of(hash) >= zeros) return counter;
    }
}

static bool is_space(char letter) {
    return letter == ' ' || (letter >= '\t' && letter <= '\r');
}

/* Takes the next word off a text. Empty at its end. */
static size_t next_word(const char **text, const char *end, const char **word) {
    while (*text < end && is_space(**text)) ++*text;
    *word = *text;
    while (*text < end && !is_space(**text)) ++*text;
    return (size_t)(*text - *word);
}

static int parse(const char *word, size_t size, int64_t *number, struct distwasm_result *result) {
    char *end;
    errno = 0;
    /* A word ends before white space or the zero byte after the input, and so does what strtoll reads. */
    *number = strtoll(word, &end, 10);
    if (end != word + size || errno != 0)
        return distwasm_error(result, "`%.*s` is not an integer of 64 bits", size < 60 ? (int)size : 60, word);
    return 0;
}

int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    const char *text = (const char *)input, *end = text + size;
    const char *words[3];
    size_t sizes[3];
    for (int at = 0; at < 3; at++) sizes[at] = next_word(&text, end, &words[at]);
    if (sizes[1] == 0 || sizes[2] != 0)
        return distwasm_error(
            result, "expected `A difficulty`, found %s", sizes[2] != 0 ? "more than two words" : "fewer than two words");
    int64_t a, difficulty;
    if (parse(words[0], sizes[0], &a, result) != 0) return 1;
    if (parse(words[1], sizes[1], &difficulty, result) != 0) return 1;
    if (difficulty < 0 || difficulty > ZEROS_MAX)
        return distwasm_error(
            result, "a difficulty of %lld is not between 0 and %d", (long long)difficulty, ZEROS_MAX);
    distwasm_printf(result, "%llu\n", (unsigned long long)find(a, difficulty));
    return 0;
}
