package config

import (
	"fmt"
	"slices"
)

// checkValues checks what follows from the values of several keys alone.
func (l *loader) checkValues(world int) {
	l.checkRequired()
	ranks := l.dataRanks(world)
	l.checkBatch(ranks)
	l.checkLanes(ranks)
	l.checkPipeline(ranks)
	l.checkSteps()
	l.checkOptimizer()
	l.checkSchedule()
	l.checkValidation()
	l.checkDocuments()
	if l.usable("run.deterministic", "collective.algorithm") && l.config.Run.Deterministic == "layout" && l.config.Collective.Algorithm == "ring" {
		l.problem("collective.algorithm", `"ring" adds in an order that depends on the number of ranks, against run.deterministic = "layout"`,
			`take another algorithm, or set run.deterministic to "run"`)
	}
	l.checkSamples()
	if t := l.config.Train; l.usable("train.dtype", "train.residual_dtype") && t.ResidualDType == "bfloat16" && t.DType != "bfloat16" {
		l.problem("train.residual_dtype", `"bfloat16" is not used with train.dtype = "float32"`, "remove it, or set train.dtype to the same")
	}
	if l.usable("data.tokenizer", "monitor.sample_tokens") && l.config.Monitor.SampleTokens > 0 && l.config.Data.Tokenizer == "" {
		l.problem("monitor.sample_tokens", "a sample needs to know what its tokens mean", `set data.tokenizer to "bytes" if that made the tokens, or remove it`)
	}
}

// checkDocuments checks that what depends on the ends of documents can find them.
func (l *loader) checkDocuments() {
	d := l.config.Data
	if !l.usable("data.eod", "data.tokenizer", "data.format") || d.EOD >= 0 {
		return
	}
	whole := l.usable("data.packing") && d.Packing != "concat" // samples know where documents begin
	for _, needs := range []struct {
		key string
		on  bool
	}{
		{"data.reset_attention_mask", d.ResetAttentionMask && !whole}, {"data.reset_position_ids", d.ResetPositionIDs && !whole}, {"data.eod_mask_loss", d.EODMaskLoss},
	} {
		if needs.on {
			l.problem(needs.key, "needs to know which token ends a document", `set data.eod to its id, or data.tokenizer to "bytes" if that made the tokens`)
		}
	}
}

// checkRequired reports missing keys that not every run needs.
func (l *loader) checkRequired() {
	c := l.config
	evaluate := l.usable("run.mode") && c.Run.Mode == "evaluate"
	if l.usable("model.path", "model.config") {
		switch {
		case c.Model.Path != "" && c.Model.Config != nil:
			l.problem("model.config", "excludes model.path", "remove one; model.overrides changes single keys of path's config.json")
			l.bad["model.path"] = true
		case c.Model.Path == "" && c.Model.Config == nil:
			l.problem("model.path", "is missing", "set it to a Hugging Face model directory, or write its config.json as [model.config]")
		case c.Model.Config != nil && evaluate:
			l.problem("model.config", "has no weights to evaluate", "set model.path to a directory with weights")
		}
	}
	switch {
	case !l.usable("data.paths", "data.blend"):
	case len(c.Data.Paths) > 0 && len(c.Data.Blend) > 0:
		l.problem("data.blend", "excludes data.paths", "remove one of them")
	case len(c.Data.Paths) == 0 && len(c.Data.Blend) == 0 && !(evaluate && len(c.Data.ValidationPaths) > 0):
		l.problem("data.paths", "is missing", "set it to a list of files")
	}
	for _, s := range l.sections {
		for _, k := range s.keys {
			if k.required == "always" || k.required != "" && !evaluate {
				l.requireKey(k)
			}
		}
	}
}

// requireKey reports a key that is not set, or set to the zero that means so.
func (l *loader) requireKey(k key) {
	value := k.in(l.config)
	switch {
	case !l.usable(k.String()):
	case !l.set[k.String()]:
		l.problem(k.String(), "is missing", "set it to "+l.legal(k))
	case value.IsZero() && !k.bounds.contains(0):
		l.outOfRange(k, value.Interface())
	}
}

// dataRanks returns the number of data ranks, 0 if it is not known. With a known world it becomes parallel.data's value.
func (l *loader) dataRanks(world int) int {
	if !l.usable("parallel.data", "parallel.tensor", "parallel.pipeline", "parallel.context") {
		return 0
	}
	p := &l.config.Parallel
	rest := world
	for _, part := range []struct {
		key  string
		size int
	}{{"parallel.tensor", p.Tensor}, {"parallel.context", p.Context}, {"parallel.pipeline", p.Pipeline}} {
		if rest%part.size != 0 {
			l.problem(part.key, fmt.Sprintf("%d does not divide the %d ranks of the job that are left for it", part.size, rest), "use "+divisors(rest, part.size))
			return 0
		}
		rest /= part.size
	}
	switch {
	case world == 0:
	case p.Data == 0:
		p.Data = rest
	case p.Data != rest:
		others := p.Tensor * p.Pipeline * p.Context
		l.problem("parallel.data", fmt.Sprintf("data x tensor x pipeline x context = %d x %d x %d x %d = %d ranks, but the job has %d",
			p.Data, p.Tensor, p.Pipeline, p.Context, p.Data*others, world), fmt.Sprintf("use %d, or 0 for all ranks that are left", rest))
		return 0
	}
	return p.Data
}

// divisors names the divisors of n next to a number that is none.
func divisors(n, near int) string {
	below := min(near, n)
	for n%below != 0 {
		below--
	}
	above := near + 1
	for above < n && n%above != 0 {
		above++
	}
	if above > n {
		return fmt.Sprint(below)
	}
	return fmt.Sprintf("%d or %d", below, above)
}

// checkBatch checks that a step falls into whole micro batches, the same number on each data rank.
func (l *loader) checkBatch(ranks int) {
	if !l.usable("train.global_batch_size", "train.micro_batch_size") {
		return
	}
	global, micro := l.config.Train.GlobalBatchSize, l.config.Train.MicroBatchSize
	unit, of := micro, fmt.Sprintf("micro_batch_size = %d", micro)
	if ranks > 1 {
		unit, of = micro*ranks, fmt.Sprintf("micro_batch_size x data ranks = %d x %d", micro, ranks)
	}
	if global%unit != 0 {
		l.problem("train.global_batch_size", fmt.Sprintf("%d is not a multiple of %s", global, of), "use "+neighbours(global, unit))
	}
}

// neighbours names the multiples of unit next to n.
func neighbours(n, unit int) string {
	below := n / unit * unit
	if below == 0 {
		return fmt.Sprint(unit)
	}
	return fmt.Sprintf("%d or %d", below, below+unit)
}

// checkLanes checks that each data rank gets the same number of gradient lanes. Where the number of lanes is only the
// default, the run gives up what they are for and says so.
func (l *loader) checkLanes(ranks int) {
	if !l.usable("run.deterministic", "run.gradient_lanes") || l.config.Run.Deterministic != "layout" {
		return
	}
	lanes := l.config.Run.GradientLanes
	power := 1
	for power*2 <= lanes {
		power *= 2
	}
	switch {
	case power != lanes:
		l.problem("run.gradient_lanes", fmt.Sprintf("%d is not a power of two", lanes), fmt.Sprintf("use %d or %d", power, 2*power))
	case ranks == 0 || lanes%ranks == 0:
	case !l.set["run.gradient_lanes"]:
		l.config.Run.Deterministic = "run"
		l.note("run.deterministic", "the default of %d gradient lanes does not fit %d data ranks: falling back to \"run\", the same bits on this number of ranks only", lanes, ranks)
	default:
		remedy := fmt.Sprintf("use %d", ranks)
		if ranks&(ranks-1) != 0 {
			remedy = "start a power of two of data ranks"
		}
		l.problem("run.gradient_lanes", fmt.Sprintf("%d lanes cannot be shared evenly by %d data ranks", lanes, ranks), remedy+`, or set run.deterministic = "run"`)
	}
}

// checkSteps checks that what happens at a step happens within the run.
func (l *loader) checkSteps() {
	c := l.config
	if !l.usable("train.steps") || c.Train.Steps == 0 {
		return
	}
	for _, limited := range []struct {
		key  string
		step int
	}{{"run.stop_step", c.Run.StopStep}, {"lr_schedule.warmup_steps", c.LRSchedule.WarmupSteps}} {
		if l.usable(limited.key) && limited.step > c.Train.Steps {
			l.problem(limited.key, fmt.Sprintf("%d is beyond train.steps = %d", limited.step, c.Train.Steps), fmt.Sprintf("use at most %d", c.Train.Steps))
		}
	}
}

// checkSchedule checks the parameters of the learning rate's schedule.
func (l *loader) checkSchedule() {
	if !l.usable("lr_schedule.type") {
		return
	}
	c, none := l.config.LRSchedule, Default().LRSchedule
	for _, p := range []struct {
		key   string
		isSet bool
		types []string
	}{
		{"lr_schedule.min_lr", c.MinLR != none.MinLR, []string{"cosine", "linear", "cosine-restarts", "polynomial", "wsd"}},
		{"lr_schedule.num_cycles", c.NumCycles != none.NumCycles, []string{"cosine-restarts"}},
		{"lr_schedule.power", c.Power != none.Power, []string{"polynomial"}},
		{"lr_schedule.decay_steps", c.DecaySteps != none.DecaySteps, []string{"wsd"}},
	} {
		if p.isSet && !slices.Contains(p.types, c.Type) {
			l.problem(p.key, fmt.Sprintf("is not used by lr_schedule.type = %s", quote(c.Type)), "remove it, or use type "+list(quoted(p.types)))
		}
	}
	if lr := l.config.Optimizer.LR; l.set["optimizer.lr"] && l.usable("lr_schedule.min_lr", "optimizer.lr") && c.MinLR > lr {
		l.problem("lr_schedule.min_lr", fmt.Sprintf("%v is more than optimizer.lr = %v", c.MinLR, lr), fmt.Sprintf("use at most %v", lr))
	}
	if c.Type == "wsd" && l.usable("lr_schedule.decay_steps", "lr_schedule.warmup_steps", "train.steps") {
		l.checkDecay()
	}
}

// checkDecay checks that the decay of a warmup-stable-decay schedule fits behind its warmup.
func (l *loader) checkDecay() {
	c, steps := l.config.LRSchedule, l.config.Train.Steps
	remedy := fmt.Sprintf("use at most the %d steps that a warmup of %d leaves of %d", steps-c.WarmupSteps, c.WarmupSteps, steps)
	switch {
	case steps == 0: // an evaluation
	case c.DecaySteps == 0:
		l.problem("lr_schedule.decay_steps", `is missing and type "wsd" needs it`, remedy)
	case c.DecaySteps > steps-c.WarmupSteps:
		l.problem("lr_schedule.decay_steps", fmt.Sprintf("%d is too many", c.DecaySteps), remedy)
	}
}

// checkValidation checks the keys that say what is validated on, and when.
func (l *loader) checkValidation() {
	if !l.usable("data.validation_paths", "data.validation_split") {
		return
	}
	d := l.config.Data
	hasPaths, hasSplit := len(d.ValidationPaths) > 0, d.ValidationSplit > 0
	switch {
	case hasPaths && hasSplit:
		l.problem("data.validation_split", "excludes data.validation_paths", "remove one of them")
		l.bad["data.validation_paths"] = true
	case hasPaths || hasSplit:
	case l.usable("run.mode") && l.config.Run.Mode == "evaluate":
		l.problem("run.mode", `"evaluate" needs data to validate on`, "set data.validation_paths or data.validation_split")
	case l.usable("data.validation_interval") && d.ValidationInterval > 0:
		l.problem("data.validation_interval", "there is no data to validate on", "set data.validation_paths or data.validation_split")
	}
}
