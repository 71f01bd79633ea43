/* What a guest program of distwasm written in C or C++ includes, in one of its source files.
 *
 * A guest is a function from the bytes of an input to the bytes of a result. Define it, and compile:
 *
 *     #include "distwasm.h"
 *
 *     int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
 *         if (size == 0) return distwasm_error(result, "nothing to count");
 *         distwasm_printf(result, "%zu bytes beginning with %c\n", size, input[0]);
 *         return 0;
 *     }
 *
 *     zig cc --target=wasm32-wasi -O2 -s -mexec-model=reactor -I guest/c -o guest.wasm guest.c
 *
 * As it is, the program is a ProcessStdio guest: one instance lives on from unit to unit, and globals keep what they
 * hold. With -DDISTWASM_COMMAND (and without -mexec-model) it is a plain command: a fresh instance for each unit. A
 * command can be compiled for the machine at hand as well, and tried there.
 *
 * A unit that fails ends its instance with status 1, its text on stderr and from there in the report. abort() and traps
 * fail the unit too.
 */
#ifndef DISTWASM_H
#define DISTWASM_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The answer to one unit. It begins empty and belongs to the library; the functions below fill it. */
struct distwasm_result {
    uint8_t *bytes;
    size_t size;
    size_t capacity;
    /* Why there is none; empty if there is one. */
    char error[1024];
};

/* Yours: answers an input. Returns 0, or what distwasm_error() returned. A zero byte follows the input, so that text can
 * be read as a string. The input belongs to the library, and is gone after the call. */
int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result);

/* Says, as printf would, why there is no answer, in at most 1,023 bytes. For `return distwasm_error(result, ...)`: it
 * returns 1. */
__attribute__((format(printf, 2, 3), unused, warn_unused_result)) static int
distwasm_error(struct distwasm_result *result, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->error, sizeof result->error, format, arguments);
    va_end(arguments);
    return 1;
}

/* Fails the unit from anywhere, at once. */
__attribute__((noreturn)) static void distwasm_exit(const char *error) {
    fprintf(stderr, "%s\n", error);
    exit(EXIT_FAILURE);
}

static void *distwasm_allocate(void *old, size_t size) {
    void *bytes = realloc(old, size);
    if (bytes == NULL) distwasm_exit("out of memory");
    return bytes;
}

/* Adds room for so many bytes to the answer, to be filled by the caller before anything else is added. */
__attribute__((unused)) static uint8_t *distwasm_extend(struct distwasm_result *result, size_t size) {
    if (size > SIZE_MAX / 2 - result->size) distwasm_exit("the result is too long");
    size_t needed = result->size + size;
    if (needed > result->capacity || result->bytes == NULL) {
        result->capacity = needed < 64 ? 64 : needed + needed / 2;
        result->bytes = (uint8_t *)distwasm_allocate(result->bytes, result->capacity);
    }
    uint8_t *room = result->bytes + result->size;
    result->size = needed;
    return room;
}

/* Adds bytes to the answer. */
__attribute__((unused)) static void distwasm_append(struct distwasm_result *result, const void *bytes, size_t size) {
    if (size > 0) memcpy(distwasm_extend(result, size), bytes, size);
}

/* Adds text to the answer, as printf would. */
__attribute__((format(printf, 2, 3), unused)) static void
distwasm_printf(struct distwasm_result *result, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int size = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (size < 0) distwasm_exit("cannot format the result");
    /* One more for the zero byte that vsnprintf writes; the answer ends before it. */
    uint8_t *room = distwasm_extend(result, (size_t)size + 1);
    vsnprintf((char *)room, (size_t)size + 1, format, arguments);
    result->size -= 1;
    va_end(arguments);
}

/* All of stdin, at most `size_max` bytes of it, and a zero byte that `size` does not count. */
static uint8_t *distwasm_read(size_t size_max, size_t *size) {
    size_t capacity = size_max < 65536 ? size_max : 65536;
    uint8_t *bytes = (uint8_t *)distwasm_allocate(NULL, capacity + 1);
    *size = 0;
    while (*size < size_max) {
        if (*size == capacity) {
            capacity = capacity < size_max / 2 ? capacity * 2 : size_max;
            bytes = (uint8_t *)distwasm_allocate(bytes, capacity + 1);
        }
        ssize_t got = read(STDIN_FILENO, bytes + *size, capacity - *size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) distwasm_exit("cannot read the input");
        if (got == 0) break;
        *size += (size_t)got;
    }
    bytes[*size] = 0;
    return bytes;
}

static void distwasm_write(const uint8_t *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) distwasm_exit("cannot write the result");
        bytes += written;
        size -= (size_t)written;
    }
}

/* Answers `input`, which it frees, or ends the instance. */
static void distwasm_answer_unit(uint8_t *input, size_t size, struct distwasm_result *result) {
    int status = distwasm_answer(input, size, result);
    if (result->error[0] != 0) distwasm_exit(result->error);
    if (status != 0) distwasm_exit("failed, and did not say why");
    free(input);
}

#ifdef __cplusplus
}
#endif

#ifdef DISTWASM_COMMAND

int main(void) {
    struct distwasm_result result = {NULL, 0, 0, {0}};
    size_t size;
    uint8_t *input = distwasm_read(SIZE_MAX / 2, &size);
    distwasm_answer_unit(input, size, &result);
    distwasm_write(result.bytes, result.size);
    free(result.bytes);
    return EXIT_SUCCESS;
}

#else

/* Answers one unit of `size` bytes: the length of the result, 32 bits, little-endian, and the result. */
__attribute__((export_name("ProcessStdio"))) void ProcessStdio(int32_t size) {
    struct distwasm_result result = {NULL, 0, 0, {0}};
    size_t got;
    uint8_t *input = distwasm_read((size_t)size, &got);
    if (got != (size_t)size) distwasm_exit("the input ended too early");
    distwasm_answer_unit(input, got, &result);
    if (result.size > INT32_MAX) distwasm_exit("the result is too long");
    uint32_t length = (uint32_t)result.size;
    const uint8_t head[4] = {
        (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24)};
    distwasm_write(head, sizeof head);
    distwasm_write(result.bytes, result.size);
    free(result.bytes);
}

#endif

#endif
