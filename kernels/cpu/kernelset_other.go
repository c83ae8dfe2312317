//go:build (!amd64 && !arm64) || noasm

package cpu

// kernelSets lists what this build has on this machine, best first.
func kernelSets() []*kernelSet { return []*kernelSet{genericSet()} }

// fastAdd is kernelSet.add for work without a Device.
func fastAdd(y, a, b []float32) { addGeneric(y, a, b) }

// fastFolds has no kernels.
func fastFolds() (t foldTable) { return t }

// fastSumInto8 is foldKernels.into for 8 sources.
func fastSumInto8(dst *float32, src [][]byte, at, n int) { sumInto8Generic(dst, src, at, n) }

// fastWiden is kernelSet.widen for work without a Device.
func fastWiden(y []float32, x []uint16) { widenGeneric(y, x) }

// fastNarrow is kernelSet.narrow for work without a Device.
func fastNarrow(y []uint16, x []float32) { narrowGeneric(y, x) }
