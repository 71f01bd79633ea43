// Package distwasm is what a guest program of distwasm written in Go imports.
//
// A guest is a function from the bytes of an input to the bytes of a result:
//
//	func init() { distwasm.Serve(answer) }
//	func main() { distwasm.Main() }
//
//	func answer(input []byte) ([]byte, error) { ... }
//
// This makes, with GOOS=wasip1 and GOARCH=wasm, two kinds of program:
//
//	go build -buildmode=c-shared -o guest.wasm .
//	go build -tags command -o guest-command.wasm .
//
// The first is a ProcessStdio guest: one instance lives on from unit to unit, and variables keep what they hold. Its main
// is never called, so what it needs it sets up in init. The second is a plain command: a fresh instance for each unit.
// The same source can be built for the machine at hand, where it is a command, and tested there with go test.
//
// A unit fails when the function returns an error, whose text goes to stderr and from there into the report, with status
// 1, and when it panics.
package distwasm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

var answer = func([]byte) ([]byte, error) {
	return nil, errors.New("nothing answers: the program has to call distwasm.Serve in an init function")
}

// Serve names the function that answers each unit. To be called from an init function: a ProcessStdio guest has no main.
func Serve(function func(input []byte) ([]byte, error)) {
	answer = function
}

// Main answers one unit as a plain command: all of stdin is the input, all of stdout the result.
func Main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(fmt.Errorf("cannot read the input: %w", err))
	}
	result, err := answer(input)
	if err != nil {
		fail(err)
	}
	write(result)
}

// processUnit answers one unit of size bytes: the length of the result, 32 bits, little-endian, and the result.
func processUnit(size int32) {
	input := make([]byte, size)
	if _, err := io.ReadFull(os.Stdin, input); err != nil {
		fail(fmt.Errorf("cannot read the input: %w", err))
	}
	result, err := answer(input)
	if err != nil {
		fail(err)
	}
	if len(result) > math.MaxInt32 {
		fail(fmt.Errorf("a result of %d bytes is too long", len(result)))
	}
	write(binary.LittleEndian.AppendUint32(nil, uint32(len(result))))
	write(result)
}

func write(bytes []byte) {
	if _, err := os.Stdout.Write(bytes); err != nil {
		fail(fmt.Errorf("cannot write the result: %w", err))
	}
}

// fail ends this instance; a ProcessStdio guest gets a fresh one for the next unit.
func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
