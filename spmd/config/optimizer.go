package config

import (
	"fmt"
	"slices"

	"lockstep/spmd/optim"
)

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

// An optimizerKey is a key of [optimizer] with its value and its default.
type optimizerKey struct {
	name         string
	value, unset any
	types        []string // the optimizers that use it; nil stands for all
}

// keys lists the keys of [optimizer] that decide a run's numbers.
func (o *Optimizer) keys() []optimizerKey {
	none, adamw, muon, adafactor := Default().Optimizer, []string{"adamw", "muon"}, []string{"muon"}, []string{"adafactor"}
	return []optimizerKey{
		{"type", o.Type, none.Type, nil},
		{"lr", o.LR, none.LR, nil},
		{"betas", o.Betas, none.Betas, adamw},
		{"eps", o.Eps, none.Eps, adamw},
		{"weight_decay", o.WeightDecay, none.WeightDecay, nil},
		{"momentum", o.Momentum, none.Momentum, muon},
		{"nesterov", o.Nesterov, none.Nesterov, muon},
		{"ns_steps", o.NSSteps, none.NSSteps, muon},
		{"adjust_lr_fn", o.AdjustLRFn, none.AdjustLRFn, muon},
		{"adamw_lr", o.AdamWLR, none.AdamWLR, muon},
		{"beta2_decay", o.Beta2Decay, none.Beta2Decay, adafactor},
		{"clip_threshold", o.ClipThreshold, none.ClipThreshold, adafactor},
		{"adafactor_eps", o.AdafactorEps, none.AdafactorEps, adafactor},
	}
}

// Each calls f with each key of [optimizer] that has a part in the run's numbers, and its value.
func (o *Optimizer) Each(f func(key string, value any)) {
	for _, k := range o.keys() {
		if k.types == nil || slices.Contains(k.types, o.Type) {
			f("optimizer."+k.name, k.value)
		}
	}
	if o.EMADecay > 0 {
		f("optimizer.ema_decay", o.EMADecay)
	}
}

// OptimizerOptions returns the optimizer's hyperparameters.
func (c *Config) OptimizerOptions() optim.Options {
	o := c.Optimizer
	rate := 1.0
	if o.LR > 0 {
		rate = o.AdamWLR / o.LR
	}
	return optim.Options{
		Type: o.Type, WeightDecay: o.WeightDecay, ClipGradNorm: c.Train.ClipGradNorm,
		Beta1: o.Betas[0], Beta2: o.Betas[1], Eps: o.Eps,
		Muon:      optim.MuonOptions{Momentum: o.Momentum, Nesterov: o.Nesterov, Steps: o.NSSteps, AdjustLR: o.AdjustLRFn, AdamWRate: rate},
		Adafactor: optim.AdafactorOptions{Beta2Decay: o.Beta2Decay, Eps: o.AdafactorEps[0], MinScale: o.AdafactorEps[1], Threshold: o.ClipThreshold},
	}
}

// checkOptimizer checks that the optimizer uses the keys that are set, and completes [optimizer].
func (l *loader) checkOptimizer() {
	o := &l.config.Optimizer
	if !l.usable("optimizer.type") {
		return
	}
	for _, k := range o.keys() {
		if key := "optimizer." + k.name; k.types != nil && !slices.Contains(k.types, o.Type) && l.usable(key) && k.value != k.unset {
			l.problem(key, fmt.Sprintf("is not used by optimizer.type = %s", quote(o.Type)), "remove it, or use type "+list(quoted(k.types)))
		}
	}
	if o.EMAValidation && o.EMADecay == 0 && l.usable("optimizer.ema_decay", "optimizer.ema_validation") {
		l.problem("optimizer.ema_validation", "there is no average of the weights to validate", "set optimizer.ema_decay, for example to 0.999")
	}
	if o.Type == "muon" {
		l.checkMuon(o)
	}
}

// checkMuon finds the learning rate of the parameters that Muon leaves to AdamW.
func (l *loader) checkMuon(o *Optimizer) {
	if !l.set["optimizer.lr"] || !l.usable("optimizer.lr", "optimizer.adamw_lr", "optimizer.adjust_lr_fn") {
		return
	}
	switch {
	case o.LR == 0:
		l.problem("optimizer.lr", "0 leaves nothing that optimizer.adamw_lr could be scaled with", "use a number above 0")
	case o.AdamWLR > 0:
	case o.AdjustLRFn == "match_rms_adamw":
		o.AdamWLR = o.LR
	default:
		l.problem("optimizer.adamw_lr", fmt.Sprintf("is missing: with adjust_lr_fn = %s, Muon's learning rate is not one for AdamW", quote(o.AdjustLRFn)),
			`set it, for example to 3e-4, or use adjust_lr_fn = "match_rms_adamw"`)
	}
}
