package cpu

import (
	"fmt"
	"testing"

	"lockstep/kernels"
	"lockstep/kernels/conformance"
	"lockstep/kernels/device"
)

func TestConformance(t *testing.T) {
	for _, set := range KernelSets() {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s-%d", set, threads), func(t *testing.T) {
				conformance.Run(t, func(t *testing.T) (kernels.Device, device.Stream) { return open(t, set, threads) })
			})
		}
	}
}

func TestConformanceOfQueues(t *testing.T) {
	conformance.Run(t, func(t *testing.T) (kernels.Device, device.Stream) {
		d, _ := open(t, "generic", 2)
		return d, d.NewStream("queue")
	})
}

// TestBitsAreThoseOfOneThread compares all operators' bits for several numbers of threads, on shapes with many parts.
func TestBitsAreThoseOfOneThread(t *testing.T) {
	for _, set := range KernelSets() {
		digest := func(threads int) map[string]string {
			return conformance.Digest(t, func(t *testing.T) (kernels.Device, device.Stream) { return open(t, set, threads) })
		}
		one := digest(1)
		for _, threads := range []int{2, 3, 8} {
			for name, got := range digest(threads) {
				if got != one[name] {
					t.Errorf("%s, %s: %s with %d threads, %s with one", set, name, got, threads, one[name])
				}
			}
		}
	}
}

// TestGenericDigest pins the bits of the generic set. They are the same on every architecture and may change only on
// purpose: checkpoints record the set's name as their promise.
func TestGenericDigest(t *testing.T) {
	want := map[string]string{
		"RMSNorm":           "71b52ff41fe88ab2",
		"RMSNormBackward":   "a9e928641c30e2e7",
		"AddRMSNorm":        "503b0030b44b7091",
		"AddBias":           "a8be19a79a966150",
		"SwiGLU":            "7e6b12d496816340",
		"SwiGLUBackward":    "4c260ab32c8e830f",
		"Embedding":         "08189f8ac2ebc7f8",
		"Dropout":           "82e6e0f11a4eeb7d",
		"CrossEntropy":      "8ddfe10dba374107",
		"RoPE":              "2b9c74d3552cbf14",
		"ClipFactor":        "f9ccbcbda57a4cf6",
		"AdamW":             "4e82d4543faa7aaa",
		"MatMul":            "dff60e05269e9784",
		"MatMulBFloat16":    "44542f2ff40a88ad",
		"Attention":         "73438d20006d7842",
		"AttentionBackward": "c9ed9bd2b3d96772",

		"Attention of documents":    "1e36a849d7a1e98b",
		"Attention of further keys": "cef9036a074b56ad",

		"Route":   "f5cc9095cbc0383f",
		"Experts": "58966024395fb51d",

		"Muon":      "4fb4759a1426c233",
		"Adafactor": "9e69d0571d46ac32",

		"ProductsInBFloat16": "aeb354ee477156e5",

		"Activations":       "1e7eaa064f842413",
		"AttentionBFloat16": "f862e338e3b28480",
	}
	got := conformance.Digest(t, func(t *testing.T) (kernels.Device, device.Stream) { return open(t, "generic", 1) })
	for name := range got {
		if got[name] != want[name] {
			t.Errorf("%s has the digest %s, expected %s", name, got[name], want[name])
		}
	}
}

// TestExactDigests: the optimizer's arithmetic and that of RoPE is exactly that of the generic set in every other one.
func TestExactDigests(t *testing.T) {
	digest := func(set string) map[string]string {
		return conformance.Digest(t, func(t *testing.T) (kernels.Device, device.Stream) { return open(t, set, 1) })
	}
	want := digest("generic")
	for _, set := range KernelSets() {
		got := digest(set)
		for _, name := range []string{"ClipFactor", "AdamW", "RoPE"} {
			if got[name] != want[name] {
				t.Errorf("%s, %s: the digest is %s, that of generic %s", set, name, got[name], want[name])
			}
		}
	}
}
