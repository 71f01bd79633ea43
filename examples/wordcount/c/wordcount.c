/* Wordcount in C: counts lines, words between ASCII white space, and bytes. */
#include "distwasm.h"

#include <stdbool.h>

int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    size_t lines = 0, words = 0;
    bool in_word = false;
    for (size_t at = 0; at < size; at++) {
        bool is_space = input[at] == ' ' || (input[at] >= '\t' && input[at] <= '\r');
        lines += input[at] == '\n';
        words += !is_space && !in_word;
        in_word = !is_space;
    }
    distwasm_printf(result, "{\"lines\":%zu,\"words\":%zu,\"bytes\":%zu}\n", lines, words, size);
    return 0;
}
