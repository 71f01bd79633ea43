package distwasm

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// What exits or reads stdin runs in a process of its own: this test program again, told by its environment.
func TestMain(m *testing.M) {
	switch os.Getenv("DISTWASM_TEST") {
	case "command":
		Serve(func(input []byte) ([]byte, error) { return bytes.ToUpper(input), nil })
		Main()
	case "unit":
		Serve(func(input []byte) ([]byte, error) { return bytes.ToUpper(input), nil })
		processUnit(2)
	case "failure":
		Serve(func(input []byte) ([]byte, error) { return nil, os.ErrInvalid })
		Main()
	case "nothing":
		Main()
	default:
		os.Exit(m.Run())
	}
}

func TestUnits(t *testing.T) {
	for _, test := range []struct{ name, input, stdout, stderr string }{
		{"command", "", "", ""},
		{"command", "abc", "ABC", ""},
		{"unit", "ab", "\x02\x00\x00\x00AB", ""},
		{"unit", "a", "", "cannot read the input: unexpected EOF\n"},
		{"failure", "abc", "", "invalid argument\n"},
		{"nothing", "", "", "nothing answers: the program has to call distwasm.Serve in an init function\n"},
	} {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "DISTWASM_TEST="+test.name)
		command.Stdin = bytes.NewBufferString(test.input)
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		failed := command.Run() != nil
		if stdout.String() != test.stdout || stderr.String() != test.stderr || failed != (test.stderr != "") {
			t.Errorf("%+v: failed: %v, stdout: %q, stderr: %q", test, failed, &stdout, &stderr)
		}
	}
}
