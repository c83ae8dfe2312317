package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapMemory returns at least bytes of zeroed memory from the kernel, with large pages where the machine allows them.
func mapMemory(bytes int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, max(bytes, 1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	if bytes >= 4<<20 {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // only a hint: without large pages all still works
	}
	return mem, nil
}

func addressOf(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }
