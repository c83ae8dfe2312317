package config

import (
	"time"

	"lockstep/kernels/device"
	"lockstep/spmd/data"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
	"lockstep/spmd/optim"
	"lockstep/spmd/pipeline"
)

// A Config is a checked configuration: every key has its value, given or default.
//
// The structs of its sections are the schema. A key is a field with a toml tag; its comment is what the reference page says about
// it. Further tags say which values are legal, and what the message is for one that is not:
//
//	values:"a,b"         the legal strings
//	or:"a directory"     any other string is legal too, and what it means
//	later:"c,d"          values that Lockstep will have one day and that are refused by name until then
//	other:"a CSV file"   any other string is refused as this, which is not available yet
//	range:"[1,)"         bounds of a number, in the notation of intervals
//	only:"1"             the one value that works, because feature is not available yet
//	feature:"..."
//	required:"always"    no default; "to train" if only run.mode = "evaluate" can do without
//
// A key's default is legal whatever the tags say: where it is zero, it means that the key is not set. Slices of strings
// also take one string, numbers with a fraction also take an integer.
type Config struct {
	// What the run is and where its results go.
	Run Run `toml:"run"`
	// The model: a Hugging Face directory, or a config.json written as TOML.
	Model Model `toml:"model"`
	// The tokens that are trained and validated on.
	Data Data `toml:"data"`
	// The length of the run and of its batches.
	Train Train `toml:"train"`
	// Fine-tuning by low-rank adapters: the model stays as it is, and the adapters become adapter/ in the output directory,
	// which PEFT loads.
	LoRA LoRA `toml:"lora"`
	// The update rule.
	Optimizer Optimizer `toml:"optimizer"`
	// The learning rate of step i, counted from 0. With w = warmup_steps it is `lr*i/w` while i < w; then, with T =
	// train.steps and p = (i-w)/(T-w), what `type` says.
	LRSchedule LRSchedule `toml:"lr_schedule"`
	// How the work is spread over ranks: ranks = data x tensor x pipeline x context.
	Parallel Parallel `toml:"parallel"`
	// How the load of a mixture of experts is kept even.
	MoE MoE `toml:"moe"`
	// What is computed again in the backward pass instead of being kept.
	Recompute Recompute `toml:"recompute"`
	// When the state of the run is saved, and where it starts from.
	Checkpoint Checkpoint `toml:"checkpoint"`
	// What is reported while the run goes on.
	Monitor Monitor `toml:"monitor"`
	// Where the arithmetic happens.
	Device Device `toml:"device"`
	// How ranks communicate.
	Collective Collective `toml:"collective"`

	// Architecture is the model's parsed config.json, with model.overrides applied.
	Architecture *model.Config `toml:"-"`
	// Tokenizer is what data.tokenizer names, nil where that is "".
	Tokenizer tokenizer.Tokenizer `toml:"-"`
	// Chat makes the tokens of conversations, nil where data.format is another one.
	Chat *data.Chat `toml:"-"`
	// Table is the schedule that parallel.pipeline_schedule reads from a file, nil where it names one.
	Table pipeline.Schedule `toml:"-"`
	// Notes say what the user should know before the run starts and what is no mistake.
	Notes []string `toml:"-"`
}

// Run is section [run].
type Run struct {
	// `pretrain` and `finetune` run the same training step; they name what the run is for. `evaluate` computes the
	// validation loss and perplexity of the weights in model.path and trains nothing.
	Mode string `toml:"mode" values:"pretrain,finetune,evaluate"`
	// Directory that receives everything the run writes: metrics, checkpoints, logs and the trained model.
	OutputDir string `toml:"output_dir" required:"always"`
	// Seed of all random numbers: initial weights and the order of samples.
	Seed uint64 `toml:"seed" range:"[0,)"`
	// `layout`: the same bits on 1, 2, 4, ... up to gradient_lanes data ranks and any number of threads. `run`: the same
	// bits for a repeat on the same layout. `off`: no promise.
	Deterministic string `toml:"deterministic" values:"layout,run,off"`
	// Number of partial sums, a power of two, into which the step's gradients fall under `layout`: the largest number
	// of data ranks that gives the same bits. Where it is not set and does not fit the data ranks, the run falls back to
	// deterministic = "run" and says so.
	GradientLanes int `toml:"gradient_lanes" range:"[1,65536]"`
	// End after this step with a checkpoint, so that the run can go on later; the learning rate keeps following
	// train.steps. 0: run to train.steps.
	StopStep int `toml:"stop_step" range:"[0,)"`
}

// Model is section [model].
type Model struct {
	// Hugging Face model directory: config.json and, to start from trained weights, *.safetensors; or config.json and weights
	// that MindSpore has saved (*.ckpt, *.safetensors), under Hugging Face's names or those of MindSpore Transformers. Either
	// this or [model.config] is required.
	Path string `toml:"path"`
	// `auto` loads the weights in path when there are any. `random` ignores them.
	Init string `toml:"init" values:"auto,random"`
	// Table of config.json keys that replace those in path.
	Overrides map[string]any `toml:"overrides"`
	// A whole config.json written as TOML, in place of path. The weights are then random.
	Config map[string]any `toml:"config"`
}

// Train is section [train].
type Train struct {
	// Optimizer steps of the whole run.
	Steps int `toml:"steps" required:"to train" range:"[1,)"`
	// Samples per optimizer step, over all ranks: a multiple of micro_batch_size x data ranks.
	GlobalBatchSize int `toml:"global_batch_size" required:"always" range:"[1,16777216]"`
	// Samples that go through the model together on one rank.
	MicroBatchSize int `toml:"micro_batch_size" range:"[1,16777216]"`
	// Gradients are scaled down to this global L2 norm where they exceed it. 0: no clipping.
	ClipGradNorm float64 `toml:"clip_grad_norm" range:"[0,)"`
	// Type of activations and of their gradients. `bfloat16` takes less memory; weights, their gradients and the optimizer's state
	// are float32 all the same, and so are statistics, routers and the loss. The trained model is then written in bfloat16.
	// On processors that multiply bfloat16 (AVX512_BF16; the kernel set is then avx512bf16) linear layers take about half the
	// time, and round their weights for each product.
	DType string `toml:"dtype" values:"float32,bfloat16"`
	// Type, where dtype is bfloat16, of the sum that runs through all layers and that each adds to, and of its gradient. `float32`
	// keeps the losses as near to those of float32 as PyTorch's autocast does; `bfloat16` takes less memory.
	ResidualDType string `toml:"residual_dtype" values:"float32,bfloat16"`
	// What multiplies the loss of multi-token prediction, the mean over the model's num_nextn_predict_layers modules: each predicts
	// one token further than the one before. Modules that the weights do not have begin at random. 0: the modules are neither
	// built nor needed.
	MTPLossWeight float64 `toml:"mtp_loss_weight" range:"[0,)"`
	// Parameters that stay as they are: patterns of their Hugging Face names, where `*` stands for any text. They take no
	// gradient and no optimizer state, and are in neither the gradient norm nor the checkpoints.
	Freeze []string `toml:"freeze"`
}

// LoRA is section [lora].
type LoRA struct {
	// Rank of the adapters. 0: there are none, and the whole model is trained.
	Rank int `toml:"rank" range:"[0,65536]"`
	// The adapters' product is multiplied with alpha/rank.
	Alpha float64 `toml:"alpha" range:"(0,)"`
	// Multiply with alpha/sqrt(rank) instead.
	RSLoRA bool `toml:"rslora"`
	// Probability with which an element of an adapter's input is dropped in training.
	Dropout float64 `toml:"dropout" range:"[0,1)"`
	// The adapted modules: patterns of the last part of their names, where `*` stands for any text; a pattern with dots is
	// compared with as many parts, such as `shared_experts.*` or `experts.*.up_proj`. Projections of experts are adapted in all
	// experts of a layer, each with matrices of its own, and without dropout, as in PEFT.
	TargetModules []string `toml:"target_modules"`
	// Directory of a PEFT adapter to start from. Its r, lora_alpha, use_rslora and set of target modules must be those of this
	// section.
	Init string `toml:"init"`
	// Type in which the model's matrices are kept. `bfloat16` takes half the memory, and rounds weights that are not in it
	// already.
	BaseDType string `toml:"base_dtype" values:"float32,bfloat16"`
}

// Checkpoint is section [checkpoint].
type Checkpoint struct {
	// Steps from one checkpoint to the next. 0: only where the run ends or is stopped.
	Interval int `toml:"interval" range:"[0,)"`
	// Newest checkpoints that are kept; older ones are deleted.
	Keep int `toml:"keep" range:"[1,)"`
	// Keep also those of the steps that this number divides, however old. 0: none.
	KeepEvery int `toml:"keep_every" range:"[0,)"`
	// File format of the saved state. `ckpt`: MindSpore's, with the names of its optimizers for the optimizer's state. A run goes on
	// from either.
	Format string `toml:"format" values:"safetensors,ckpt"`
	// Write while the next steps run.
	Async bool `toml:"async"`
	// `auto`: go on from the newest sound checkpoint in run.output_dir, or start. `none`: start, and refuse an
	// output_dir that holds a run.
	Resume string `toml:"resume" values:"auto,none" or:"the directory of a checkpoint to go on from"`
}

// Monitor is section [monitor].
type Monitor struct {
	// Steps from one line of the log to the next. metrics.jsonl has every step.
	LogInterval int `toml:"log_interval" range:"[1,)"`
	// Tokens that the trained model writes at the end of the run, to show what it has learnt. 0: none.
	SampleTokens int `toml:"sample_tokens" range:"[0,1048576]"`
	// The text that the sample goes on from.
	SamplePrompt string `toml:"sample_prompt"`
}

// Device is section [device].
type Device struct {
	// `auto`: the best device found. `cpu`: Go kernels on this host's cores.
	Type string `toml:"type" values:"auto,cpu" later:"ascend"`
	// Threads of one rank. 0: the cores of the host, shared fairly among its ranks.
	Threads int `toml:"threads" range:"[0,4096]"`
}

// Collective is section [collective].
type Collective struct {
	// `auto`: shared memory between the ranks of a host, TCP between hosts. `tcp`: TCP between all ranks. `shm`: shared
	// memory; a job that spans hosts is refused.
	Backend string `toml:"backend" values:"auto,tcp,shm" later:"hccl"`
	// How collectives are done. `auto`: by a cost model, which `spmd bench collective --plan` prints. Others: that way, for
	// every operation that has it. Under deterministic = "layout" sums keep the order of the aligned tree: ring is refused,
	// and two-level where the hosts do not hold equal powers of two of neighbouring ranks.
	Algorithm string `toml:"algorithm" values:"auto,direct,doubling,halving,ring,tree,pairwise,two-level"`
	// How long a rank waits for its peers, as Go writes durations: "60s", "2m", "1h30m".
	Timeout time.Duration `toml:"timeout" range:"(0,)"`
	// How long nothing may be heard of a rank or a host, not even a heartbeat, before it counts as lost.
	HeartbeatTimeout time.Duration `toml:"heartbeat_timeout" range:"(0,)"`
	// Put TCP connections between ranks inside TLS 1.3, for a network that is not trusted. Shared memory is not concerned.
	TLS bool `toml:"tls"`
}

// Default returns the configuration of an empty file. Keys that have no default are zero.
func Default() *Config {
	return &Config{
		Run:   Run{Mode: "pretrain", Seed: 42, Deterministic: "layout", GradientLanes: 8},
		Model: Model{Init: "auto"},
		Data:  Data{Format: "text", TextKey: "text", Packing: "concat", Overlong: "truncate", Shuffle: true, Order: "lockstep", EOD: -1},
		Train: Train{MicroBatchSize: 1, ClipGradNorm: 1, DType: "float32"},
		LoRA:  LoRA{Alpha: 16, TargetModules: []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, BaseDType: "float32"},
		Optimizer: Optimizer{Type: "adamw", Betas: [2]float64{0.9, 0.95}, Eps: 1e-8, WeightDecay: 0.1,
			Momentum: 0.95, Nesterov: true, NSSteps: 5, AdjustLRFn: "original",
			Beta2Decay: -0.8, ClipThreshold: 1, AdafactorEps: [2]float64{0x1p-23, 1e-3}},
		LRSchedule: LRSchedule{Type: "cosine", NumCycles: 1, Power: 1},
		Parallel:   Parallel{Tensor: 1, Pipeline: 1, Context: 1, ContextAlgorithm: "ring", Expert: 1, Overlap: true, BucketMB: 4, PipelineSchedule: "1f1b", VirtualStages: 1},
		MoE:        MoE{DispatchFactor: 2, DropPolicy: "probs"},
		Recompute:  Recompute{Mode: "none"},
		Checkpoint: Checkpoint{Keep: 5, Format: "safetensors", Async: true, Resume: "auto"},
		Monitor:    Monitor{LogInterval: 1},
		Device:     Device{Type: "auto"},
		Collective: Collective{Backend: "auto", Algorithm: "auto", Timeout: time.Minute, HeartbeatTimeout: 30 * time.Second},
	}
}

// MicroBatches returns M, the number of micro batches of a step over all data ranks.
func (c *Config) MicroBatches() int { return c.Train.GlobalBatchSize / c.Train.MicroBatchSize }

// TokensPerStep returns the number of input tokens of one step. Each has a label, unless data.eod_mask_loss takes it away.
func (c *Config) TokensPerStep() int64 {
	return int64(c.Train.GlobalBatchSize) * int64(c.Data.SequenceLength)
}

// Tuning returns what of the model is trained.
func (c *Config) Tuning() model.Tuning {
	t := model.Tuning{Freeze: c.Train.Freeze}
	if l := c.LoRA; l.Rank > 0 {
		t.LoRA = &model.LoRA{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, Dropout: l.Dropout, Seed: c.Run.Seed, Targets: l.TargetModules}
		if l.BaseDType == "bfloat16" {
			t.FrozenDType = device.BFloat16
		}
	}
	return t
}

// Activations returns the type of activations and of their gradients.
func (t Train) Activations() device.DType { return dtype(t.DType) }

// Residual returns the type of the sum that runs through all layers, and of its gradient.
func (t Train) Residual() device.DType {
	if t.DType == "bfloat16" {
		return dtype(t.ResidualDType)
	}
	return device.Float32
}

func dtype(name string) device.DType {
	if name == "bfloat16" {
		return device.BFloat16
	}
	return device.Float32
}

// Schedule returns the learning rate's schedule: of [lr_schedule] what its type has a use for.
func (c *Config) Schedule() optim.ScheduleOptions {
	s := c.LRSchedule
	o := optim.ScheduleOptions{Type: s.Type, LR: c.Optimizer.LR, MinLR: s.MinLR, Steps: c.Train.Steps, WarmupSteps: s.WarmupSteps}
	switch s.Type {
	case "cosine-restarts":
		o.Cycles = s.NumCycles
	case "polynomial":
		o.Power = s.Power
	case "wsd":
		o.DecaySteps = s.DecaySteps
	}
	return o
}
