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
// The structs below are the schema. A key is a field with a toml tag; its comment is what the reference page says about
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

// Data is section [data].
type Data struct {
	// `text`: a document per file. `jsonl`: a JSON object per line, or an array of objects in a file, with the text at
	// text_key. `parquet`: the text is in column text_key. `chat`: conversations, as JSON or
	// Parquet, with `messages`, with `conversations` (ShareGPT), or with `instruction`, `input` and `output` (Alpaca); they become
	// text by the model's chat template, and only what the assistant writes has loss. `megatron`: token stores, NAME.bin with
	// NAME.idx. The tokens of jsonl, parquet, chat and, with a tokenizer other than bytes, text are made before the run starts
	// and kept in output_dir/data.
	Format string `toml:"format" values:"text,jsonl,chat,parquet,megatron"`
	// Files, directories (with all below them) and patterns with `*` and `**`, joined in sorted order. megatron: prefixes,
	// the path without .bin, joined in the order given. Relative paths are relative to the working directory; `$GOROOT` at
	// the start of a path is the directory of Go. Required to train or with validation_split, unless blend is set.
	Paths []string `toml:"paths"`
	// Several sets of data in place of paths, each as a table [[data.blend]] with its paths and its weight: samples are taken
	// from them in proportion to the weights, and each has epochs of its own.
	Blend []Blend `toml:"blend"`
	// jsonl: the key of an object that has the text. parquet: the column.
	TextKey string `toml:"text_key"`
	// What made, or makes, the tokens. `bytes`: ids 0-255 are the bytes of UTF-8, 256 ends a document. A directory: its
	// tokenizer.json. text: the default is bytes. jsonl, parquet and chat: the default is model.path, or bytes with
	// [model.config]. megatron: the default is "", not known.
	Tokenizer string `toml:"tokenizer" values:"bytes" or:"a directory with tokenizer.json"`
	// chat: the file of a Jinja template in place of the tokenizer's own. The assistant's parts are those within
	// `{% generation %}`, else what the template writes of the assistant's messages, with the end of the turn.
	ChatTemplate string `toml:"chat_template"`
	// Tokens of a sample that are predicted.
	SequenceLength int `toml:"sequence_length" required:"always" range:"[1,16777216]"`
	// How documents make samples. `concat`: all are joined and cut every sequence_length tokens. `best-fit`: whole documents
	// share a sample, each put where it leaves the least room; they are kept apart by reset_attention_mask and
	// reset_position_ids, which are true by default then. `none`: a document per sample. Room that is left has no loss.
	// chat: the default is best-fit.
	Packing string `toml:"packing" values:"concat,best-fit,none"`
	// What best-fit and none do with a document of more than sequence_length + 1 tokens. `truncate`: the rest is left out.
	// `split`: it becomes several documents. How many it concerns is reported.
	Overlong string `toml:"overlong" values:"truncate,split"`
	// Take samples in a random order, another one each epoch. false: in the order of the files.
	Shuffle bool `toml:"shuffle"`
	// `lockstep`: as shuffle says. `megatron`: sample for sample the order of Megatron-Core's GPTDataset and its blends, with
	// run.seed as its seed, for loss curves that can be compared line by line; paths, and those of each part of a blend,
	// name one set then.
	Order string `toml:"order" values:"lockstep,megatron"`
	// Id of the token that ends a document, and belongs to it. -1: that of the tokenizer, or none.
	EOD int `toml:"eod" range:"[-1,2147483647]"`
	// Let a token attend only to its own document. Needs eod.
	ResetAttentionMask bool `toml:"reset_attention_mask"`
	// Count positions from 0 in each document, as in each sample. Needs eod.
	ResetPositionIDs bool `toml:"reset_position_ids"`
	// Leave positions whose input is eod out of the loss, which is the mean over the others, and out of the tokens that are
	// counted. A step of nothing but eod has loss 0 and no gradient. Needs eod.
	EODMaskLoss bool `toml:"eod_mask_loss"`
	// Data to validate on, as paths; files that are also in paths are left out of training. Excludes validation_split.
	ValidationPaths []string `toml:"validation_paths"`
	// Fraction of the tokens that is held out for validation, at the end of the data or of each part of a blend; of the
	// documents where they are packed whole or order is megatron. Excludes validation_paths.
	ValidationSplit float64 `toml:"validation_split" range:"[0,1)"`
	// Steps from one validation to the next. 0: only at the end of the run.
	ValidationInterval int `toml:"validation_interval" range:"[0,)"`
	// Batches of global_batch_size samples per validation. 0: all of the validation data.
	ValidationBatches int `toml:"validation_batches" range:"[0,)"`
}

// A Blend is a table of data.blend.
type Blend struct {
	Weight float64  `toml:"weight"`
	Paths  []string `toml:"paths"`
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
	DType string `toml:"dtype" values:"float32,bfloat16"`
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

// Optimizer is section [optimizer].
type Optimizer struct {
	// `adamw`: AdamW as in PyTorch. `muon`: the matrices of hidden layers by Muon as in PyTorch, each Hugging Face tensor for
	// itself, its Newton-Schulz iteration in float32; embedding, head, norms and biases by AdamW.
	// `adafactor`: Adafactor as in PyTorch, whose state is one number per row and per column of a matrix.
	Type string `toml:"type" values:"adamw,muon,adafactor"`
	// Peak learning rate. muon: that of the matrices, before adjust_lr_fn. adafactor: an upper bound on 1/sqrt(step), the size of
	// a step relative to the root mean square of a weight.
	LR float64 `toml:"lr" required:"to train" range:"[0,)"`
	// adamw, muon: decay rates of the mean and of the mean square of the gradients in AdamW.
	Betas [2]float64 `toml:"betas" range:"[0,1)"`
	// adamw, muon: added to the root of the mean square in AdamW's denominator.
	Eps float64 `toml:"eps" range:"(0,)"`
	// Decoupled weight decay, on parameters of two or more dimensions only: each step multiplies them by 1 - lr*weight_decay.
	WeightDecay float64 `toml:"weight_decay" range:"[0,)"`
	// muon: decay rate of the mean of the gradients.
	Momentum float64 `toml:"momentum" range:"[0,1)"`
	// muon: look one step ahead, with the gradient on its way to the mean.
	Nesterov bool `toml:"nesterov"`
	// muon: Newton-Schulz iterations that make an update nearly orthogonal.
	NSSteps int `toml:"ns_steps" range:"[1,99]"`
	// muon: what multiplies the learning rate of a matrix of R rows and C columns. `original`: `sqrt(max(1, R/C))`.
	// `match_rms_adamw`: `0.2*sqrt(max(R, C))`, so that learning rates and weight decay for AdamW fit Muon.
	// `spectral_unclamped`: `sqrt(R/C)`.
	AdjustLRFn string `toml:"adjust_lr_fn" values:"original,match_rms_adamw,spectral_unclamped"`
	// muon: peak learning rate of what is left to AdamW; it follows [lr_schedule] as lr does. Default: lr with match_rms_adamw,
	// else required.
	AdamWLR float64 `toml:"adamw_lr" range:"[0,)"`
	// adafactor: the second moments move by `step^beta2_decay` towards those of a step.
	Beta2Decay float64 `toml:"beta2_decay" range:"(,0]"`
	// adafactor: updates are scaled down to this root mean square where they exceed it; PyTorch's d.
	ClipThreshold float64 `toml:"clip_threshold" range:"[1,)"`
	// adafactor: the least root of a second moment, and the least root mean square of a weight that a step is relative to.
	AdafactorEps [2]float64 `toml:"adafactor_eps" range:"(0,)"`
	// Keep an exponential moving average of the weights, of which each step replaces the part 1 - ema_decay; it is written as
	// output_dir/model-ema beside model. 0: none.
	EMADecay float64 `toml:"ema_decay" range:"[0,1)"`
	// Validate the averaged weights in place of those of the last step.
	EMAValidation bool `toml:"ema_validation"`
}

// LRSchedule is section [lr_schedule].
type LRSchedule struct {
	// `cosine`: `min_lr + (lr-min_lr)*(1+cos(pi*p))/2`. `linear`: `min_lr + (lr-min_lr)*(1-p)`. `constant`: `lr`.
	// `cosine-restarts`: `min_lr + (lr-min_lr)*(1+cos(pi*q))/2` with q = num_cycles*p modulo 1. `polynomial`:
	// `min_lr + (lr-min_lr)*(1-p)^power`. `wsd` (warmup, stable, decay): `lr`, and over the last decay_steps
	// `min_lr + (lr-min_lr)*(T-i)/decay_steps`.
	Type string `toml:"type" values:"cosine,linear,constant,cosine-restarts,polynomial,wsd"`
	// Steps of linear warmup from 0.
	WarmupSteps int `toml:"warmup_steps" range:"[0,)"`
	// Learning rate at train.steps; at most lr. Not used by constant.
	MinLR float64 `toml:"min_lr" range:"[0,)"`
	// cosine-restarts: how often the learning rate falls from lr to min_lr.
	NumCycles float64 `toml:"num_cycles" range:"(0,)"`
	// polynomial: the exponent.
	Power float64 `toml:"power" range:"(0,)"`
	// wsd: number of steps, the last ones of the run, over which the learning rate falls; required there.
	DecaySteps int `toml:"decay_steps" range:"[1,)"`
}

// Parallel is section [parallel].
type Parallel struct {
	// Ranks that work on different samples with the same weights. 0: all ranks that the other sizes leave.
	Data int `toml:"data" range:"[0,1048576]"`
	// Ranks that share each matrix: attention by heads, the feed-forward network and each expert by their width, embedding and
	// output head by the vocabulary. Divides the attention heads, and is a divisor or a multiple of the key-value heads. Numbers
	// equal those of one rank but for rounding, and are the same bits on any number of data ranks.
	Tensor int `toml:"tensor" range:"[1,1048576]"`
	// Stages of ranks that share the stack of layers: micro batches pass through one after the other. The bits are those of one stage.
	Pipeline int `toml:"pipeline" range:"[1,4096]"`
	// Ranks that share each sample: each works on its tokens, and attention exchanges what it needs of the others'. Sums then have
	// another order than on one rank: results equal to rounding, those of a repeat, and of other data ranks, to the bit.
	Context int `toml:"context" range:"[1,65536]"`
	// How attention sees the tokens of the other context ranks. `ring`: keys and values go from rank to rank while each works on those
	// it has; each rank has two pieces of a sample, one from its front and one from its back, so that all have as much to do.
	// sequence_length is a multiple of 2 x context. `ulysses`: ranks exchange tokens for heads, which the ranks share evenly; where
	// there are fewer heads of keys and values than ranks, they are copied. sequence_length is a multiple of context. `hybrid`:
	// ulysses within groups of neighbours, and a ring of these groups.
	ContextAlgorithm string `toml:"context_algorithm" values:"ring,ulysses,hybrid"`
	// hybrid: the size of the groups, a divisor of context between 1 and context. 0: the largest that needs no copies of heads.
	Ulysses int `toml:"ulysses" range:"[0,65536]"`
	// Ranks over which experts are spread; adds no ranks of its own. Neighbours among the data x context x tensor ranks share the
	// experts and send each other the tokens for them; each holds as many experts. It must divide the number of experts and
	// that of those ranks. Sums then have another order than on one rank: results equal to rounding, those of a repeat to the bit.
	Expert int `toml:"expert" range:"[1,65536]"`
	// Share the tokens between tensor ranks outside of attention and feed-forward networks: norms, residual sums, and what is kept
	// of them. Tokens per micro batch are a multiple of tensor.
	SequenceParallel bool `toml:"sequence_parallel"`
	// Work on two micro batches at a time where there are tensor ranks, the forward pass of one and the backward pass of the one before:
	// while the one exchanges activations, the other computes. Takes the memory of two micro batches. Needs pipeline = 1.
	InterleaveMicroBatches bool `toml:"interleave_micro_batches"`
	// What ranks that hold the same weights share instead of each having it whole (ZeRO): 0 nothing, 1 the optimizer's state, 2
	// gradients too, 3 weights too, of which a rank then has those of two layers at a time. Under deterministic = "layout" the
	// bits are those of 0, and a rank with several micro batches per step keeps their gradients whole until the last one; under
	// "run" it keeps its share alone.
	ZeROStage int `toml:"zero_stage" range:"[0,3]"`
	// Exchange gradients between data ranks while the backward pass goes on, not after it, and with zero_stage weights while the
	// layers before compute. The bits are the same.
	Overlap bool `toml:"overlap"`
	// With overlap: gradients are exchanged in buckets of whole layers, as many as fit in this size, in MiB. The larger they are, the
	// less each byte costs, and the more is left to exchange when the backward pass ends.
	BucketMB float64 `toml:"bucket_mb" range:"(0,65536]"`
	// Order of the pipeline's forward and backward passes. `1f1b`: a forward and a backward pass in turn. `gpipe`: all forward
	// passes, then all backward passes. `interleaved-1f1b`: 1f1b with virtual_stages chunks of layers on each rank, which divides the
	// bubble by their number. `zb-h1`: 1f1b with the gradients of weights put where ranks would idle; the same memory, a third of
	// the bubble. `zb-v`: two chunks on each rank, one on the way down and one on the way back; next to no bubble. `dualpipe-v`: likewise,
	// with most forward passes run together with a backward pass; at least twice as many micro batches as stages. Or a file
	// with a row for each rank and cells such as `0F0`, `3I1`, `3W1` or `2B0`: chunk, pass (I and W are the two halves of B), micro
	// batch, as torch.distributed.pipelining writes it.
	PipelineSchedule string `toml:"pipeline_schedule" values:"1f1b,gpipe,interleaved-1f1b,zb-h1,zb-v,dualpipe-v" or:"a CSV file"`
	// Chunks of layers on each rank of the pipeline: 2 or more for interleaved-1f1b; zb-v and dualpipe-v always have 2, and a CSV file
	// says it itself.
	VirtualStages int `toml:"virtual_stages" range:"[1,1024]"`
	// Transformer layers of each chunk, along the model: `[5, 6, 6, 3]`. `"auto"`: such that the chunk with the most arithmetic, that of
	// the output head counted, has as little as can be. Default: as even as can be, the larger ones first.
	StageLayers StageLayers `toml:"stage_layers" range:"[0,1048576]"`
}

// MoE is section [moe].
type MoE struct {
	// By how much each step moves a router's bias against the load of its experts, where the model's routers have one
	// (DeepSeek-V3). 0: the bias stays as it is.
	BiasUpdateRate float64 `toml:"bias_update_rate" range:"[0,1]"`
	// A loss that evens out the load of E experts: E times the sum over experts of the share f of the tokens that go to it
	// and its mean score P. `hf`: as in Transformers, over a micro batch and all layers together. `sequence`: over each sample and
	// each layer apart, f divided by num_experts_per_tok, as DeepSeek-V3's authors have it. `global`: each layer apart, f divided likewise and
	// taken from all micro batches of the step so far on all ranks, P from a micro batch, as Qwen's authors and Megatron-Core have
	// it; so far depends on the number of ranks, which run.deterministic = "layout" excludes. `none`: no such loss. It is
	// reported apart from the loss. Default: `hf` where the config.json or its Transformers class has router_aux_loss_coef, else
	// `none`.
	AuxLoss string `toml:"aux_loss" values:"none,hf,sequence,global"`
	// What multiplies it. Default: router_aux_loss_coef of the config.json, else aux_loss_alpha; required where it has neither.
	AuxLossWeight float64 `toml:"aux_loss_weight" range:"[0,)"`
	// What multiplies the mean over tokens of the square of logsumexp(router logits), which keeps them small, added up over
	// layers.
	ZLossWeight float64 `toml:"z_loss_weight" range:"[0,)"`
	// With parallel.expert: for how many tokens a rank has memory to receive them from others, by their number where the load is even.
	// What is more goes in further rounds, which are computed again in the backward pass; no token is dropped.
	DispatchFactor float64 `toml:"dispatch_factor" range:"[1,65536]"`
	// How many tokens an expert takes of a micro batch on a rank, by their number where the load is even; the others go without that
	// expert, as in Megatron-Core, and metrics.jsonl counts them. 0: all, nothing is dropped.
	CapacityFactor float64 `toml:"capacity_factor" range:"[0,65536]"`
	// With capacity_factor: an expert drops the tokens with the smallest weights (`probs`) or the last ones (`position`).
	DropPolicy string `toml:"drop_policy" values:"probs,position"`
}

// Recompute is section [recompute].
type Recompute struct {
	// `none`: all is kept but norms and activations, which cost next to nothing. `selective`: of each layer its input, what
	// attention leaves, and the sum of the two are kept; the projections to queries, keys and values, and to gate and
	// up, are computed again. `full`: only each layer's input is kept. With hidden size h, intermediate size i, and q
	// and k elements of queries and of keys, a layer keeps 2h+2q+2k+2i elements per token with none (q+k more with
	// norms of queries and keys), 2h+q with selective, h with full; what is computed again takes memory for one layer. Both
	// make the layers' products about a quarter more, full a little more than selective. The bits of all results are those of
	// none.
	Mode string `toml:"mode" values:"none,selective,full"`
	// The transformer layers that mode applies to, as numbers from 0 and ranges: `["0-5", "11"]`. The others keep
	// everything. Default: all.
	Layers []string `toml:"layers"`
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
		Parallel:   Parallel{Tensor: 1, Pipeline: 1, Context: 1, ContextAlgorithm: "ring", Expert: 1, Overlap: true, BucketMB: 25, PipelineSchedule: "1f1b", VirtualStages: 1},
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
func (t Train) Activations() device.DType {
	if t.DType == "bfloat16" {
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
