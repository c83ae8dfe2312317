//go:build !noasm

package cpu

// The functions below are in the generated fold_*_arm64.s. foldKernels says what each one computes.

//go:noescape
func sumInto2NEON(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll2NEON(src [][]byte, at, n int)

//go:noescape
func sumInto4NEON(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll4NEON(src [][]byte, at, n int)

//go:noescape
func sumInto8NEON(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll8NEON(src [][]byte, at, n int)
