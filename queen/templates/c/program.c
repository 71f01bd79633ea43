/* Counts the words of an input. */
#include <ctype.h>
#include <stdbool.h>

#include "distwasm.h"

/* Answers one input. The report shows its error. Print to stderr: stdout is for the answer. One instance answers many
 * inputs, so it is not told their names. With queen --fresh, getenv("DISTWASM_INPUT") is the name of the input. */
int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    size_t words = 0;
    bool within_word = false;
    for (size_t i = 0; i < size; i++) {
        bool is_letter = !isspace(input[i]);
        if (is_letter && !within_word) words++;
        within_word = is_letter;
    }
    if (words == 0) return distwasm_error(result, "there is no word in it");
    distwasm_printf(result, "%zu words\n", words);
    return 0;
}
