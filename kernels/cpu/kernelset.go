package cpu

import (
	"fmt"
	"strings"
)

// A kernelSet is one implementation of the innermost loops. Operators have the same bits within one set only.
type kernelSet struct {
	name string
}

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{{name: "generic"}} }

// KernelSets returns the names of the kernel sets that this build has on this machine, best first.
func KernelSets() []string {
	var names []string
	for _, s := range kernelSets() {
		names = append(names, s.name)
	}
	return names
}

func chooseKernelSet(name string) (*kernelSet, error) {
	sets := kernelSets()
	if name == "" {
		return sets[0], nil
	}
	for _, s := range sets {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("cpu: no kernel set %q here; there is %s", name, strings.Join(KernelSets(), ", "))
}
