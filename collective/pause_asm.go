//go:build (amd64 || arm64) && !noasm

package collective

// pause tells the processor that this is a loop that waits for memory to change: it then wastes less of what it shares
// with others. It takes about as long as a cache line needs from another core.
func pause()
