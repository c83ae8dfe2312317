package train_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// TestRecomputeGivesTheSameBits trains with and without recomputation, on one rank and on two, and validates in between.
func TestRecomputeGivesTheSameBits(t *testing.T) {
	for _, c := range []struct {
		family    string
		overrides []string
	}{
		{"llama", nil}, {"qwen2", nil}, {"qwen3_moe", nil}, {"deepseek_v2", []string{"moe.aux_loss=sequence", "moe.aux_loss_weight=0.01"}},
		{"deepseek_v3", []string{"moe.bias_update_rate=0.01", "moe.z_loss_weight=0.001", "train.mtp_loss_weight=0.3"}},
		{"qwen3", append([]string{"data.paths=testdata/golden/documents"}, documentMasks...)},
	} {
		dir := t.TempDir()
		run := func(name string, ranks int, overrides ...string) *memorySink {
			overrides = append(slices.Clone(c.overrides), overrides...)
			return runRanks(t, layoutText(c.family, filepath.Join(dir, name), 8), ranks, 1, append(overrides, "train.steps=4")...)
		}
		want := run("none", 1)
		for name, overrides := range map[string][]string{
			"selective": {"recompute.mode=selective"}, "full": {"recompute.mode=full"}, "last": {"recompute.mode=full", "recompute.layers=1"},
		} {
			got := run(name, 2, overrides...)
			what := c.family + " with recompute " + name
			sameNumbers(t, what, want.steps, got.steps)
			if !slices.Equal(got.validations, want.validations) {
				t.Errorf("%s: validation %+v, want %+v", what, got.validations, want.validations)
			}
			sameFiles(t, what, filepath.Join(dir, "none", "model"), filepath.Join(dir, name, "model"))
		}
	}
}

// TestRecomputeSavesMemory compares the records of micro batches with what each mode is said to keep.
func TestRecomputeSavesMemory(t *testing.T) {
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	layout := func(overrides ...string) *train.Layout {
		text := layoutText("llama", filepath.Join(t.TempDir(), "out"), 8)
		c, _ := loadConfig(t, text, 1, append(overrides, "data.sequence_length=128")...)
		l, err := train.NewLayout(dev, c, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	none, selective, full, first := layout(), layout("recompute.mode=selective"), layout("recompute.mode=full"), layout("recompute.mode=full", "recompute.layers=0")
	a, tokens := none.Config.Architecture, 128
	attention, projections := a.NumAttentionHeads*a.HeadDim+a.NumAttentionHeads+a.HiddenSize, (a.NumAttentionHeads+2*a.NumKeyValueHeads)*a.HeadDim+2*a.IntermediateSize+2
	check := func(what string, l *train.Layout, layers, elements int) {
		t.Helper()
		if got, want := none.Memory.Activations-l.Memory.Activations, 4*layers*tokens*elements; got != want {
			t.Errorf("%s keeps %d bytes less than none, want %d", what, got, want)
		}
		if got, most := l.Memory.Scratch-none.Memory.Scratch, 4*tokens*elements; got > most {
			t.Errorf("%s takes %d bytes of scratch memory more than none, want at most one layer's %d", what, got, most)
		}
	}
	check("selective", selective, a.NumHiddenLayers, projections)
	check("full", full, a.NumHiddenLayers, projections+attention)
	check("full in one layer", first, 1, projections+attention)
	for l, want := range map[*train.Layout]string{none: "", selective: "recompute  selective, in all layers\n", first: "recompute  full, in layers 0\n"} {
		var b bytes.Buffer
		l.Describe(&b)
		if has := bytes.Contains(b.Bytes(), []byte("recompute")); has != (want != "") || !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("got\n%s\nwant the line %q", b.String(), want)
		}
	}
}
