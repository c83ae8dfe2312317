//go:build (!amd64 && !arm64) || noasm

package cpu

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{genericSet()} }
