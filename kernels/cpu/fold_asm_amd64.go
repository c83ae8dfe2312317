//go:build !noasm

package cpu

// The functions below are in the generated fold_*_amd64.s. foldKernels says what each one computes.

//go:noescape
func sumInto2AVX2(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll2AVX2(src [][]byte, at, n int)

//go:noescape
func sumInto4AVX2(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll4AVX2(src [][]byte, at, n int)

//go:noescape
func sumInto8AVX2(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll8AVX2(src [][]byte, at, n int)

//go:noescape
func sumInto2AVX512(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll2AVX512(src [][]byte, at, n int)

//go:noescape
func sumInto4AVX512(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll4AVX512(src [][]byte, at, n int)

//go:noescape
func sumInto8AVX512(dst *float32, src [][]byte, at, n int)

//go:noescape
func sumAll8AVX512(src [][]byte, at, n int)
