//go:build noasm || !(amd64 || arm64)

package collective

// pause passes a little time in a loop that waits for memory to change.
func pause() {
	for range 64 {
	}
}
