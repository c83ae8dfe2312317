package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lockstep/kernels"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/config"
	"lockstep/spmd/model"
	"lockstep/spmd/optim"
)

// state lists the tensors of a run's state: the weights, the optimizer's state, and the average of the weights if there is one,
// parameter by parameter under a prefix and the Hugging Face name.
func (l *Layout) state(p *placed) (list []optim.StateTensor) {
	list = l.named(WeightPrefix, p.weights)
	list = append(list, p.optimizer.State()...)
	if p.average != nil {
		list = append(list, l.named(AveragePrefix, p.average.Weights)...)
	}
	return list
}

// named lists the parameters in a flat buffer of the weights' layout.
func (l *Layout) named(prefix string, flat kernels.Tensor) (list []optim.StateTensor) {
	for _, p := range l.Model.Parameters {
		list = append(list, optim.StateTensor{Name: prefix + p.Name, Value: l.Model.Slice(flat, p), Slice: p.Slice})
	}
	return list
}

// WeightPrefix is the prefix of the weights, AveragePrefix that of their average; optim.StatePrefixes has those of the
// optimizers.
const WeightPrefix, AveragePrefix = "weight/", "ema/"

// stateFormats are the values of checkpoint.format.
var stateFormats = map[string]checkpoint.Format{"safetensors": checkpoint.HuggingFace, "ckpt": checkpoint.Ckpt}

// descriptive lists keys of config.json that say where a model comes from and change no number.
var descriptive = []string{"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}

// architectureKey begins the keys of a record that are a config.json's.
const architectureKey = "model."

// mtpLossWeight is the key of a record that says whether there are modules of multi-token prediction.
const mtpLossWeight = "train.mtp_loss_weight"

// Architecture returns the model that a checkpoint's record describes.
func Architecture(r checkpoint.Record) (*model.Config, error) {
	values := map[string]any{}
	for _, e := range r {
		if key, ok := strings.CutPrefix(e.Key, architectureKey); ok {
			values[key] = json.RawMessage(e.Value)
		}
	}
	c, problems := model.ParseConfig(values)
	if len(problems) > 0 {
		return nil, fmt.Errorf("the checkpoint's model: %v", problems[0])
	}
	if weight, ok := r.Get(mtpLossWeight); ok {
		var err error
		if c.PredictionLossWeight, err = strconv.ParseFloat(weight, 64); err != nil {
			return nil, fmt.Errorf("the checkpoint's %s: %w", mtpLossWeight, err)
		}
	}
	return c, nil
}

// Partial reports whether a checkpoint with this record holds only a part of the model, as the rest is frozen.
func Partial(r checkpoint.Record) bool {
	_, ok := r.Get("train.freeze")
	return ok
}

// Adapter returns the LoRA adapter that a checkpoint with this record holds. ok is false where it holds none.
func Adapter(r checkpoint.Record) (c checkpoint.AdapterConfig, ok bool, err error) {
	if _, ok := r.Get("lora.rank"); !ok {
		return c, false, nil
	}
	for key, to := range map[string]any{"lora.rank": &c.Rank, "lora.alpha": &c.Alpha, "lora.rslora": &c.RSLoRA, "lora.dropout": &c.Dropout} {
		text, _ := r.Get(key)
		if _, err := fmt.Sscan(text, to); err != nil {
			return c, true, fmt.Errorf("the checkpoint's record has %s = %q: %w", key, text, err)
		}
	}
	modules, _ := r.Get("lora.target_modules")
	c.TargetModules = strings.Fields(strings.Trim(modules, "[]"))
	return c, true, nil
}

// newRecord lists what decides the run's numbers. A run resumes only from a checkpoint whose record equals its own.
func newRecord(t *Trainer) (checkpoint.Record, error) {
	c := t.Config
	fingerprint, err := t.training.Fingerprint()
	if err != nil {
		return nil, fmt.Errorf("data.paths: %w", err)
	}
	r := checkpoint.Record{{Key: "data.paths (contents)", Value: fingerprint}}
	add := func(key string, value any) { r = append(r, checkpoint.Entry{Key: key, Value: fmt.Sprint(value)}) }
	var architecture map[string]json.RawMessage
	if err := json.Unmarshal(c.Architecture.JSON("float32"), &architecture); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(architecture)) {
		if !slices.Contains(descriptive, key) {
			var value bytes.Buffer
			if err := json.Compact(&value, architecture[key]); err != nil {
				return nil, err
			}
			add(architectureKey+key, value.String())
		}
	}
	add("run.seed", c.Run.Seed)
	add("run.deterministic", c.Run.Deterministic)
	add("run.gradient_lanes", t.Lanes)
	add("device.kernels", t.Device.KernelSet())
	add("data.sequence_length", c.Data.SequenceLength)
	add("data.packing", c.Data.Packing)
	add("data.overlong", c.Data.Overlong)
	add("data.blend", blendWeights(c))
	add("data.shuffle", c.Data.Shuffle)
	add("data.order", t.training.Order())
	add("data.eod", c.Data.EOD)
	add("data.reset_attention_mask", c.Data.ResetAttentionMask)
	add("data.reset_position_ids", c.Data.ResetPositionIDs)
	add("data.eod_mask_loss", c.Data.EODMaskLoss)
	add("train.steps", c.Train.Steps)
	add("train.global_batch_size", c.Train.GlobalBatchSize)
	add("train.micro_batch_size", c.Train.MicroBatchSize)
	add("train.clip_grad_norm", c.Train.ClipGradNorm)
	add("train.dtype", c.Train.DType)
	if err := addTuning(t, add); err != nil {
		return nil, err
	}
	c.Optimizer.Each(add)
	add(mtpLossWeight, c.Train.MTPLossWeight)
	add("moe.bias_update_rate", c.MoE.BiasUpdateRate)
	add("moe.aux_loss", c.MoE.AuxLoss)
	add("moe.aux_loss_weight", c.MoE.AuxLossWeight)
	add("moe.z_loss_weight", c.MoE.ZLossWeight)
	add("lr_schedule.type", c.LRSchedule.Type)
	add("lr_schedule.warmup_steps", c.LRSchedule.WarmupSteps)
	add("lr_schedule.min_lr", c.LRSchedule.MinLR)
	add("lr_schedule.num_cycles", c.LRSchedule.NumCycles)
	add("lr_schedule.power", c.LRSchedule.Power)
	add("lr_schedule.decay_steps", c.LRSchedule.DecaySteps)
	return r, nil
}

// blendWeights lists the weights of a blend; its paths may move.
func blendWeights(c *config.Config) []float64 {
	var weights []float64
	for _, b := range c.Data.Blend {
		weights = append(weights, b.Weight)
	}
	return weights
}

// addTuning adds to a record what is trained and what the frozen weights are, where not all are trained: a checkpoint does not
// hold those.
func addTuning(t *Trainer, add func(key string, value any)) error {
	if len(t.Model.Frozen) == 0 {
		return nil
	}
	c := t.Config
	add("train.freeze", c.Train.Freeze)
	if l := c.LoRA; l.Rank > 0 {
		add("lora.rank", l.Rank)
		add("lora.alpha", l.Alpha)
		add("lora.rslora", l.RSLoRA)
		add("lora.dropout", l.Dropout)
		add("lora.target_modules", t.Model.Adapted())
		add("lora.base_dtype", l.BaseDType)
	}
	src, err := t.pretrained()
	if err != nil || src == nil {
		return err
	}
	add("weights (contents)", src.Fingerprint())
	return src.Close()
}

// save writes a checkpoint of the state after t.next steps, on rank 0. In the background it waits only until the state is
// copied, and until the save before has ended.
func (t *Trainer) save(background bool) error {
	if t.Mesh.Rank != 0 {
		return nil
	}
	if err := t.store.Wait(); err != nil {
		return err
	}
	snapshot := &checkpoint.Snapshot{Step: t.next, Record: t.record}
	if background && t.copied == nil {
		t.copied = make([]byte, t.Memory.Snapshot)
	}
	copied := t.copied
	for _, tensor := range t.state(t.placed) {
		data := t.writer(tensor.Value)
		if background {
			n := tensor.Value.Bytes()
			if err := t.Device.Read(t.Stream, copied[:n], tensor.Value.Region()); err != nil {
				return err
			}
			data, copied = safetensors.Bytes(copied[:n:n]), copied[n:]
		}
		snapshot.Tensors = append(snapshot.Tensors, safetensors.Tensor{Name: tensor.Name, DType: safetensors.FromDevice(tensor.Value.DType),
			Shape: tensor.Value.Dims(), Data: data})
	}
	if background {
		t.store.SaveAsync(snapshot)
		return nil
	}
	return t.store.Save(context.Background(), snapshot)
}

// pieceBytes is how much of a tensor is in host memory while it is written to a file.
const pieceBytes = 1 << 20

// writer returns what writes a dense tensor's elements, reading them from the device piece by piece.
func (t *Trainer) writer(x kernels.Tensor) func(w io.Writer) error {
	return func(w io.Writer) error {
		piece := make([]byte, min(pieceBytes, x.Bytes()))
		for from := 0; from < x.Bytes(); from += len(piece) {
			piece = piece[:min(len(piece), x.Bytes()-from)]
			if err := t.Device.Read(t.Stream, piece, x.Region().Slice(from, from+len(piece))); err != nil {
				return err
			}
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

// checkpointDir is where the run's checkpoints are.
func (t *Trainer) checkpointDir() string {
	return filepath.Join(t.Config.Run.OutputDir, "checkpoints")
}

// resume loads the state to go on from, if there is one: all ranks that of the same step, which rank 0 chooses.
func (t *Trainer) resume() (bool, error) {
	if t.Config.Run.Mode == "evaluate" {
		return false, nil
	}
	loaded, err := t.chooseCheckpoint()
	if err != nil || loaded == nil {
		return false, err
	}
	defer loaded.Close()
	for _, tensor := range t.state(t.placed) {
		if err := t.restore(loaded, tensor); err != nil {
			return false, err
		}
	}
	t.next, t.resumedAt = loaded.Step, loaded.Step
	t.Log.Info("the run goes on from a checkpoint", "step", loaded.Step, "from", loaded.Dir)
	return true, t.Stream.Synchronize()
}

// restore writes one tensor of a checkpoint to its place.
func (t *Trainer) restore(from *checkpoint.Loaded, to optim.StateTensor) error {
	saved, ok := from.Tensor(to.Name)
	if !ok || saved.DType != to.Value.DType || !slices.Equal(saved.Shape, to.Value.Dims()) {
		return fmt.Errorf("%s does not hold %s as %v; give a checkpoint of this model", from.Dir, to.Name, to.Value)
	}
	t.Device.Write(t.Stream, to.Value.Region(), saved.Data)
	return nil
}

// chooseCheckpoint returns the checkpoint to go on from, nil for a new run. Rank 0 verifies, compares and chooses; the others
// follow.
func (t *Trainer) chooseCheckpoint() (*checkpoint.Loaded, error) {
	dir, named := t.checkpointDir(), t.Config.Checkpoint.Resume
	var loaded *checkpoint.Loaded
	choice := "none"
	if t.Mesh.Rank == 0 {
		var err error
		switch named {
		case "auto":
			loaded, err = t.store.Newest()
		case "none":
			err = checkpoint.ErrNone
		default:
			loaded, err = checkpoint.LoadDir(named)
		}
		switch {
		case err == nil:
			err := t.compare(loaded)
			if named != "auto" { // auto may pass over later ones, since they are damaged
				err = errors.Join(err, t.checkNewest(loaded))
			}
			if err != nil {
				return nil, errors.Join(err, loaded.Close())
			}
			choice = strconv.Itoa(loaded.Step)
		case !errors.Is(err, checkpoint.ErrNone):
			return nil, &ConfigurationError{Key: "checkpoint.resume", Err: err}
		}
	}
	choices, err := t.world.GatherBytes(context.Background(), []byte(choice))
	if err != nil || string(choices[0]) == "none" || t.Mesh.Rank == 0 {
		return loaded, err
	}
	if named != "auto" {
		return checkpoint.LoadDir(named)
	}
	step, err := strconv.Atoi(string(choices[0]))
	if err != nil {
		return nil, fmt.Errorf("rank 0 chose the checkpoint of step %q: %w", choices[0], err)
	}
	return checkpoint.OpenReadOnly(dir, t.Log).Load(step)
}

// compare refuses a checkpoint of a run that differs in what decides the numbers. Only train.steps may have grown.
func (t *Trainer) compare(loaded *checkpoint.Loaded) error {
	var lines []string
	for _, d := range checkpoint.CompareRecords(loaded.Record, t.record) {
		if d.Key == "train.steps" {
			was, err := strconv.Atoi(d.Saved)
			if err == nil && t.Config.Train.Steps > was {
				t.Log.Info("train.steps has grown: the learning rate follows the new schedule from here", "was", was, "now", t.Config.Train.Steps)
				continue
			}
		}
		lines = append(lines, fmt.Sprintf("%s was %s, now %s", d.Key, d.Saved, d.Now))
	}
	if len(lines) == 0 {
		return nil
	}
	return &ConfigurationError{Key: "checkpoint.resume", Err: fmt.Errorf("the run in %s has other numbers: %s; restore the old values, or choose another run.output_dir",
		loaded.Dir, strings.Join(lines, "; "))}
}

// checkNewest refuses to go on from a named checkpoint where output_dir holds later ones: they would be taken for this run's.
func (t *Trainer) checkNewest(loaded *checkpoint.Loaded) error {
	newest, found, err := t.store.NewestStep()
	if err != nil || !found || newest <= loaded.Step {
		return err
	}
	return &ConfigurationError{Key: "checkpoint.resume", Err: fmt.Errorf("%s is of step %d, but %s already goes to step %d; choose another run.output_dir",
		loaded.Dir, loaded.Step, t.checkpointDir(), newest)}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
