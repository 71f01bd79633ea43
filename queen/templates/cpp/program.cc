// Counts the words of an input.
#include <algorithm>
#include <cctype>
#include <string_view>

#include "distwasm.h"

// Answers one input. The report shows its error.
int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    std::string_view text(reinterpret_cast<const char *>(input), size);
    auto is_space = [](unsigned char letter) { return std::isspace(letter) != 0; };
    size_t words = 0;
    for (auto at = text.begin(); at != text.end(); words++) {
        at = std::find_if_not(at, text.end(), is_space);
        if (at == text.end()) break;
        at = std::find_if(at, text.end(), is_space);
    }
    if (words == 0) return distwasm_error(result, "there is no word in it");
    distwasm_printf(result, "%zu words\n", words);
    return 0;
}
