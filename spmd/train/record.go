package train

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/config"
	"lockstep/spmd/model"
)

// descriptive lists keys of config.json that say where a model comes from and change no number.
var descriptive = []string{"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}

// architectureKey begins the keys of a record that are a config.json's.
const architectureKey = "model."

// mtpLossWeight is the key of a record that says whether there are modules of multi-token prediction.
const mtpLossWeight = "train.mtp_loss_weight"

// gradientLanes is the key of a record with the number of lanes.
const gradientLanes = "run.gradient_lanes"

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
	add(gradientLanes, t.Lanes)
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
	if c.Train.Activations() == device.BFloat16 {
		add("train.residual_dtype", c.Train.ResidualDType)
	}
	if err := addTuning(t, add); err != nil {
		return nil, err
	}
	c.Optimizer.Each(add)
	add(mtpLossWeight, c.Train.MTPLossWeight)
	add("moe.bias_update_rate", c.MoE.BiasUpdateRate)
	add("moe.aux_loss", c.MoE.AuxLoss)
	add("moe.aux_loss_weight", c.MoE.AuxLossWeight)
	add("moe.z_loss_weight", c.MoE.ZLossWeight)
	add("moe.capacity_factor", c.MoE.CapacityFactor)
	add("moe.drop_policy", c.MoE.DropPolicy)
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
	contents, err := src.Fingerprint()
	add("weights (contents)", contents)
	return errors.Join(err, src.Close())
}

// compare refuses a checkpoint of a run that differs in what decides the numbers. Only train.steps may have grown.
func (t *Trainer) compare(loaded *checkpoint.Loaded) error {
	var lines []string
	for _, d := range checkpoint.CompareRecords(loaded.Record, t.record) {
		if d.Key == gradientLanes && t.Config.Run.Deterministic != "layout" {
			continue // there is one for each data rank, and the numbers may depend on the ranks
		}
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
	return fmt.Errorf("the run in %s has other numbers: %s; restore the old values, or choose another run.output_dir", loaded.Dir, strings.Join(lines, "; "))
}
