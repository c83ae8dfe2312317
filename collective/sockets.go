package collective

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls on non-blocking sockets, which end within the time of a copy. They are raw: the runtime takes the processor from a
// goroutine whose call lasts 20 microseconds, and to get it back costs as much again, while a raw call holds up a garbage
// collection for no longer than a loop without calls would.

// readNow reads what is there.
func readNow(fd int, into []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// writeNow writes as much of the pieces as there is room for.
func writeNow(fd int, pieces []unix.Iovec) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(pieces))), uintptr(len(pieces)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// piece describes memory to be written; it is not empty.
func piece(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}
