//go:build (!amd64 && !arm64) || noasm

package cpu

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{genericSet()} }

// fastAdd is kernelSet.add for work without a Device.
func fastAdd(y, a, b []float32) { addGeneric(y, a, b) }
