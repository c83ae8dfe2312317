package config

import (
	"fmt"
	"slices"

	"lockstep/spmd/optim"
)

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
