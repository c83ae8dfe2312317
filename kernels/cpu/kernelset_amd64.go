//go:build !noasm

package cpu

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{genericSet()} }
