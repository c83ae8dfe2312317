package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// report says what this rank has sent to others over the network, and what memory it has taken at most, beside what its layout planned.
func (r *rank) report() {
	if sent := r.world.Sent(); sent > 0 {
		r.log.Info(fmt.Sprintf("rank %d has sent %d MiB over the network", r.place.Rank, sent>>20))
	}
	if peak, err := r.peakMemory(); err == nil { // a system that does not say is no failure
		r.log.Info(fmt.Sprintf("peak memory of rank %d: %d MiB, of which %d MiB were planned", r.place.Rank, peak>>20, r.layout.Memory.Total()>>20))
	}
}

// peakMemory returns the most memory that this rank has taken so far, in bytes. The kernel counts for each process what it has mapped of
// memory that ranks exchange, its own and its neighbours', each part as often as it is mapped; here a rank's own part counts once
// and those of others not at all, so that the ranks of a host add up to what they take of it.
func (r *rank) peakMemory() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	peak, errPeak := statusBytes(status, "VmHWM")
	shared, errShared := statusBytes(status, "RssShmem")
	if err := errors.Join(errPeak, errShared); err != nil {
		return 0, fmt.Errorf("/proc/self/status: %w", err)
	}
	return peak - shared + r.world.SymmetricBytes(), nil
}

// statusBytes returns a size from the text of a /proc/PID/status, where it is a line such as "VmHWM:     1234 kB".
func statusBytes(status []byte, name string) (int, error) {
	for line := range bytes.Lines(status) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == name+":" {
			kilobytes, err := strconv.Atoi(string(fields[1]))
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("no %s", name)
}
