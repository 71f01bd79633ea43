//go:build wasip1 && !command

package distwasm

// ProcessStdio is what the host calls for each unit. A file of its own, because a command must not export it.
//
//go:wasmexport ProcessStdio
func processStdio(size int32) {
	processUnit(size)
}
