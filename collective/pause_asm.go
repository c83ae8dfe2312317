//go:build (amd64 || arm64) && !noasm

package collective

// pause tells the processor that this is a loop that waits for memory to change, so that it takes less of what it shares with
// others. It takes ten to a hundred nanoseconds.
func pause()
