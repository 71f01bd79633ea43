// Wordcount in Go: counts lines, words between ASCII white space, and bytes.
package main

import (
	"bytes"
	"fmt"

	"distwasm"
)

func init() { distwasm.Serve(answer) }
func main() { distwasm.Main() }

func answer(input []byte) ([]byte, error) {
	lines := bytes.Count(input, []byte("\n"))
	return fmt.Appendf(nil, "{\"lines\":%d,\"words\":%d,\"bytes\":%d}\n", lines, words(input), len(input)), nil
}

func words(input []byte) int {
	count, inWord := 0, false
	for _, letter := range input {
		isSpace := letter == ' ' || '\t' <= letter && letter <= '\r'
		if !isSpace && !inWord {
			count++
		}
		inWord = !isSpace
	}
	return count
}
