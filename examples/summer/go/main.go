// Summer in Go: reads `A + B`, answers the sum.
package main

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"

	"distwasm"
)

const spaces = " \t\n\v\f\r"

func init() { distwasm.Serve(answer) }
func main() { distwasm.Main() }

// answer adds two decimal integers of up to 128 bits with any sign and any white space around them.
func answer(input []byte) ([]byte, error) {
	if !utf8.Valid(input) {
		return nil, errors.New("the input is not text")
	}
	text := strings.Trim(string(input), spaces)
	plus := plusBetween(text)
	if plus < 0 {
		return nil, fmt.Errorf("expected `A + B`, found `%s`", shortened(text))
	}
	a, err := number(text[:plus])
	if err != nil {
		return nil, err
	}
	b, err := number(text[plus+1:])
	if err != nil {
		return nil, err
	}
	sum := new(big.Int).Add(a, b)
	if !fits(sum) {
		return nil, fmt.Errorf("the sum of %v and %v does not fit into 128 bits", a, b)
	}
	return fmt.Appendln(nil, sum), nil
}

// plusBetween finds the first plus after the first number's own sign and digits; -1 if there is none.
func plusBetween(text string) int {
	for at := 1; at < len(text); at++ {
		if text[at] == '+' && strings.ContainsRune("0123456789"+spaces, rune(text[at-1])) {
			return at
		}
	}
	return -1
}

func number(text string) (*big.Int, error) {
	text = strings.Trim(text, spaces)
	digits := strings.TrimPrefix(strings.TrimPrefix(text, "-"), "+")
	for _, digit := range digits {
		if digit < '0' || digit > '9' {
			return nil, fmt.Errorf("`%s` is not an integer", shortened(text))
		}
	}
	number, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, fmt.Errorf("`%s` is not an integer", shortened(text))
	}
	if !fits(number) {
		return nil, fmt.Errorf("`%s` does not fit into 128 bits", shortened(text))
	}
	return number, nil
}

// fits says whether a number is one of 128 bits, in two's complement.
func fits(number *big.Int) bool {
	magnitude := number
	if number.Sign() < 0 {
		magnitude = new(big.Int).Not(number)
	}
	return magnitude.BitLen() < 128
}

func shortened(text string) string {
	const shown = 60
	letters := []rune(text)
	if len(letters) <= shown {
		return text
	}
	return string(letters[:shown]) + "..."
}
