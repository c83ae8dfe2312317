package train

import (
	"context"
	"fmt"
	"path/filepath"

	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
)

// modelDir is where the trained model goes.
func (t *Trainer) modelDir() string { return filepath.Join(t.Config.Run.OutputDir, "model") }

// export writes the trained model as a Hugging Face directory, on rank 0; all ranks return when it is there. A model that is
// there already is replaced only where the weights are new.
func (t *Trainer) export(ctx context.Context, trained bool) error {
	if t.Mesh.Rank == 0 && (trained || !exists(filepath.Join(t.modelDir(), "config.json"))) {
		if err := t.writeModel(); err != nil {
			return fmt.Errorf("writing the trained model: %w", err)
		}
		t.Log.Info("the trained model is written", "to", t.modelDir())
	}
	return t.data.Barrier(context.WithoutCancel(ctx))
}

func (t *Trainer) writeModel() error {
	m := checkpoint.Model{Config: t.Config.Architecture.JSON("float32"), Files: map[string][]byte{}}
	for _, p := range t.Model.Parameters {
		m.Tensors = append(m.Tensors, safetensors.Tensor{Name: p.Name, DType: safetensors.F32, Shape: p.Shape, Data: t.writer(p.Weight)})
	}
	if t.Config.Tokenizer != nil {
		var err error
		if m.Files, err = t.Config.Tokenizer.Files(); err != nil {
			return err
		}
	}
	return checkpoint.WriteModel(t.modelDir(), m)
}
