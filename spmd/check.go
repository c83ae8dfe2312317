package main

import (
	"fmt"
	"strconv"
	"strings"

	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// check validates a configuration and prints what it comes to. It starts nothing and writes nothing.
func (p *program) check(args []string) error {
	var path string
	var overrides []string
	world := 0
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-n":
			i++
			n := 0
			if i < len(args) {
				n, _ = strconv.Atoi(args[i])
			}
			if n < 1 {
				return &usageError{"-n wants the number of ranks, such as -n 8"}
			}
			world = n
		case strings.HasPrefix(a, "-"):
			return &usageError{fmt.Sprintf("check does not know the option %s; usage: spmd check CONFIG.toml [-n N] [section.key=value ...]", a)}
		case path == "":
			path = a
		default:
			overrides = append(overrides, a)
		}
	}
	if path == "" {
		return &usageError{"usage: spmd check CONFIG.toml [-n N] [section.key=value ...]"}
	}
	c, _, err := p.load(path, overrides, world)
	if err != nil {
		return err
	}
	_, err = p.stdout.Write(c.Resolved())
	if err != nil {
		return err
	}
	for _, note := range c.Notes {
		fmt.Fprintln(p.stdout, "# note:", note)
	}
	if world == 0 {
		fmt.Fprintf(p.stdout, "\n# The configuration is sound. With -n N also the batch, the mesh and the memory of N ranks are checked.\n")
		return nil
	}
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer dev.Close()
	layout, err := train.NewLayout(dev, c, 0, world)
	if err != nil {
		return err
	}
	var b strings.Builder
	layout.Describe(&b)
	fmt.Fprintf(p.stdout, "\n# %s\n", strings.ReplaceAll(strings.TrimRight(b.String(), "\n"), "\n", "\n# "))
	return nil
}
