// Summer in C++: reads `A + B`, answers the sum.
#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "distwasm.h"

namespace {

using integer = __int128;
using std::string_view;

constexpr string_view spaces = " \t\n\v\f\r";
constexpr size_t shown_max = 60;

bool is_digit(char letter) {
    return letter >= '0' && letter <= '9';
}

string_view trimmed(string_view text) {
    size_t first = text.find_first_not_of(spaces);
    if (first == string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

// As much of a text as an error shows.
std::string shown(string_view text) {
    return text.size() <= shown_max ? std::string(text) : std::string(text.substr(0, shown_max)) + "...";
}

// Where the plus between the numbers is: the first after the first number's own sign and digits.
size_t plus_between(string_view text) {
    for (size_t at = 1; at < text.size(); at++) {
        bool follows_number = is_digit(text[at - 1]) || spaces.find(text[at - 1]) != string_view::npos;
        if (text[at] == '+' && follows_number) return at;
    }
    return string_view::npos;
}

std::optional<integer> number(string_view text, distwasm_result *result) {
    text = trimmed(text);
    string_view digits = text.substr(!text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0);
    if (digits.empty() || !std::all_of(digits.begin(), digits.end(), is_digit)) {
        (void)distwasm_error(result, "`%s` is not an integer", shown(text).c_str());
        return {};
    }
    integer value = 0;
    for (char digit : digits) {
        // Downwards for negative numbers, which reach one further than positive ones.
        integer one = text[0] == '-' ? '0' - digit : digit - '0';
        if (__builtin_mul_overflow(value, integer{10}, &value) || __builtin_add_overflow(value, one, &value)) {
            (void)distwasm_error(result, "`%s` does not fit into 128 bits", shown(text).c_str());
            return {};
        }
    }
    return value;
}

// printf and std::to_string know no integers of 128 bits.
std::string decimal(integer value) {
    std::string digits;
    unsigned __int128 rest = value < 0 ? -static_cast<unsigned __int128>(value) : value;
    do {
        digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
        rest /= 10;
    } while (rest > 0);
    if (value < 0) digits.push_back('-');
    return {digits.rbegin(), digits.rend()};
}

} // namespace

int distwasm_answer(const uint8_t *input, size_t size, struct distwasm_result *result) {
    string_view text = trimmed({reinterpret_cast<const char *>(input), size});
    size_t plus = plus_between(text);
    if (plus == string_view::npos)
        return distwasm_error(result, "expected `A + B`, found `%s`", shown(text).c_str());
    std::optional<integer> a = number(text.substr(0, plus), result);
    if (!a) return 1;
    std::optional<integer> b = number(text.substr(plus + 1), result);
    if (!b) return 1;
    integer sum;
    if (__builtin_add_overflow(*a, *b, &sum)) return distwasm_error(result, "the sum does not fit into 128 bits");
    std::string line = decimal(sum) + "\n";
    distwasm_append(result, line.data(), line.size());
    return 0;
}
