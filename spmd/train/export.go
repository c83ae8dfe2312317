package train

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
)

// export writes the trained model as a Hugging Face directory, or the adapters as a PEFT directory, on rank 0, and likewise the
// averaged weights if there is an average; all ranks return when they are there.
func (t *Trainer) export(ctx context.Context, trained bool) error {
	err := t.exportWeights("", trained)
	if err == nil && t.placed.average != nil {
		err = t.onAverage(func() error { return t.exportWeights("-ema", trained) })
	}
	if err != nil {
		return fmt.Errorf("writing the trained model: %w", err)
	}
	return t.world.Barrier(context.WithoutCancel(ctx))
}

// exportWeights writes the weights that the model is bound to, into the directory model or adapter with a suffix. What is there
// already is replaced only where the weights are new.
func (t *Trainer) exportWeights(suffix string, trained bool) error {
	name, known, write := "model", "config.json", t.writeModel
	if t.Config.LoRA.Rank > 0 {
		name, known, write = "adapter", "adapter_config.json", t.writeAdapter
	}
	dir := filepath.Join(t.Config.Run.OutputDir, name+suffix)
	if t.Mesh.Rank != 0 || !trained && exists(filepath.Join(dir, known)) {
		return nil
	}
	if err := write(dir); err != nil {
		return err
	}
	t.Log.Info("the trained model is written", "to", dir)
	return nil
}

// tensors lists parameters to be written.
func (t *Trainer) tensors(parameters []*model.Parameter) []safetensors.Tensor {
	var list []safetensors.Tensor
	for _, p := range parameters {
		list = append(list, safetensors.Tensor{Name: p.Name, DType: safetensors.FromDevice(p.Weight.DType), Shape: p.Shape, Data: t.writer(p.Weight)})
	}
	return list
}

func (t *Trainer) writeModel(dir string) error {
	m := checkpoint.Model{Config: t.Config.Architecture.JSON("float32"), Files: map[string][]byte{}}
	m.Tensors = t.tensors(slices.Concat(t.Model.Parameters, t.Model.Frozen))
	if t.Config.Tokenizer != nil {
		var err error
		if m.Files, err = t.Config.Tokenizer.Files(); err != nil {
			return err
		}
	}
	if t.Config.Data.ChatTemplate != "" { // else it is one of the tokenizer's files
		m.Files[tokenizer.ChatTemplateName] = []byte(t.Config.Chat.Template())
	}
	if source := t.Config.Model.Path; source != "" {
		generation, err := checkpoint.ReadGenerationConfig(source)
		if err != nil {
			return err
		}
		if generation != nil {
			m.Files[checkpoint.GenerationConfigName] = generation
		}
	}
	return checkpoint.WriteModel(dir, m)
}

func (t *Trainer) writeAdapter(dir string) error {
	l := t.Config.LoRA
	c := checkpoint.AdapterConfig{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, Dropout: l.Dropout, TargetModules: t.Model.Adapted(), BaseModel: t.Config.Model.Path}
	return checkpoint.WriteAdapter(dir, c, t.tensors(t.Model.Parameters))
}
