package config

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
	// Exchange gradients between data ranks while the backward pass goes on, not after it, with zero_stage weights while the layers
	// before compute, and the tokens of experts while the shared experts compute. The bits are the same.
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
