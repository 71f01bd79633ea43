// Hash in Go: which counter makes a SHA-256 that begins with zeros.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"distwasm"
)

const zerosMax = 64

func init() { distwasm.Serve(answer) }
func main() { distwasm.Main() }

func answer(input []byte) ([]byte, error) {
	if !utf8.Valid(input) {
		return nil, errors.New("the input is not text")
	}
	words := strings.FieldsFunc(string(input), isSpace)
	if len(words) != 2 {
		return nil, fmt.Errorf("expected `A difficulty`, found %d words", len(words))
	}
	a, err := integer(words[0])
	if err != nil {
		return nil, err
	}
	difficulty, err := integer(words[1])
	if err != nil {
		return nil, err
	}
	if difficulty < 0 || difficulty > zerosMax {
		return nil, fmt.Errorf("a difficulty of %d is not between 0 and %d", difficulty, zerosMax)
	}
	return fmt.Appendln(nil, find(a, int(difficulty))), nil
}

func isSpace(letter rune) bool {
	return letter == ' ' || '\t' <= letter && letter <= '\r'
}

func integer(word string) (int64, error) {
	number, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("`%.60s` is not an integer of 64 bits", word)
	}
	return number, nil
}

func find(a int64, zeros int) uint64 {
	start := strconv.AppendInt(nil, a, 10)
	for counter := uint64(1); ; counter++ {
		message := strconv.AppendUint(start, counter, 10)
		if zerosOf(sha256.Sum256(message)) >= zeros {
			return counter
		}
	}
}

// zerosOf counts the hexadecimal zeros that a hash begins with.
func zerosOf(hash [sha256.Size]byte) int {
	for at, octet := range hash {
		if octet>>4 != 0 {
			return 2 * at
		}
		if octet != 0 {
			return 2*at + 1
		}
	}
	return zerosMax
}
