package main

import (
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// A binding says what --bind-to binds ranks to.
type binding string

const (
	bindNone binding = "none"
	bindCore binding = "core"
)

// shareCores gives each of n ranks its part of the cores that this process may run on.
func shareCores(n int) ([][]int, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("finding the cores of this host: %w", err)
	}
	var cores []int
	for cpu := range 64 * len(allowed) {
		if allowed.IsSet(cpu) {
			cores = append(cores, cpu)
		}
	}
	return cut(cores, n), nil
}

// cut gives each of n ranks some neighbouring cores, or the one that it shares with its neighbours.
func cut(cores []int, n int) [][]int {
	shares := make([][]int, n)
	for i := range n {
		from := i * len(cores) / n
		shares[i] = cores[from:max(from+1, (i+1)*len(cores)/n)]
	}
	return shares
}

// bindingText reports a binding.
func bindingText(ranks []int, cores [][]int) string {
	var parts []string
	for i, number := range ranks {
		_, list, _ := strings.Cut(rankText(cores[i]), " ")
		parts = append(parts, fmt.Sprintf("rank %d to cores %s", number, list))
	}
	return "bound " + strings.Join(parts, "; ")
}

// startBound starts the process of a rank on its cores. A process inherits the cores of the thread that starts it, which is
// this goroutine's own (see starter.start).
func (s *starter) startBound(cmd *exec.Cmd, local int) error {
	if s.cores == nil {
		return cmd.Start()
	}
	var before, own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("binding to cores: %w", err)
	}
	for _, cpu := range s.cores[local] {
		own.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return fmt.Errorf("binding to cores %v: %w", s.cores[local], err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }() // what it had a moment ago, it may have
	return cmd.Start()
}
