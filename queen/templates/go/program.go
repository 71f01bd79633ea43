// Counts the words of an input.
package main

import (
	"bytes"
	"errors"
	"fmt"

	"example/{{name}}/distwasm"
)

func init() { distwasm.Serve(answer) }
func main() { distwasm.Main() }

// answer answers one input. The report shows its error.
func answer(input []byte) ([]byte, error) {
	words := len(bytes.Fields(input))
	if words == 0 {
		return nil, errors.New("there is no word in it")
	}
	return fmt.Appendf(nil, "%d words\n", words), nil
}
