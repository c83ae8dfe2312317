package config

import "fmt"

// checkExperts completes [moe] with what the model's config.json says.
func (l *loader) checkExperts() {
	m, e := &l.config.MoE, l.config.Architecture.Experts
	if e == nil {
		for key, asked := range map[string]bool{"moe.bias_update_rate": m.BiasUpdateRate > 0, "moe.aux_loss": m.AuxLoss != "" && m.AuxLoss != "none",
			"moe.aux_loss_weight": m.AuxLossWeight > 0, "moe.z_loss_weight": m.ZLossWeight > 0, "moe.capacity_factor": m.CapacityFactor > 0} {
			if asked {
				l.problem(key, "the model has no experts", "remove it")
			}
		}
		m.AuxLoss = "none"
		return
	}
	if m.BiasUpdateRate > 0 && !e.CorrectionBias {
		l.problem("moe.bias_update_rate", fmt.Sprintf("the routers of a %s have no bias", l.config.Architecture.Family), "remove it; moe.aux_loss evens out the load")
	}
	if l.usable("moe.capacity_factor", "moe.drop_policy") {
		e.CapacityFactor, e.DropByPosition = m.CapacityFactor, m.DropPolicy == "position"
	}
	if !l.usable("moe.aux_loss", "moe.aux_loss_weight") {
		return
	}
	if m.AuxLoss == "" {
		m.AuxLoss = "none"
		if e.HasAuxLoss {
			m.AuxLoss = "hf"
		}
	}
	if m.AuxLoss == "hf" && e.Route.Sigmoid {
		l.problem("moe.aux_loss", `"hf" is a loss of softmax scores, and this router's are sigmoids`, `use "sequence" or "none"`)
	}
	if m.AuxLoss == "global" && l.usable("parallel.interleave_micro_batches") && l.config.Parallel.InterleaveMicroBatches {
		l.problem("moe.aux_loss", `"global" is not available with parallel.interleave_micro_batches: it counts micro batches one after the other`, `use "sequence", or remove the other`)
	}
	if m.AuxLoss == "global" && l.usable("run.deterministic") && l.config.Run.Deterministic == "layout" {
		if l.set["run.deterministic"] {
			l.problem("moe.aux_loss", `"global" counts what ranks have done so far, which depends on their number, against run.deterministic = "layout"`,
				`set run.deterministic to "run", or use "sequence"`)
		}
		l.config.Run.Deterministic = "run"
		l.note("run.deterministic", `moe.aux_loss = "global" depends on the number of ranks: falling back to "run", the same bits on this number of ranks only`)
	}
	switch {
	case m.AuxLoss == "none" || l.set["moe.aux_loss_weight"]:
	case e.AuxLossWeight >= 0:
		m.AuxLossWeight = e.AuxLossWeight
	default:
		l.problem("moe.aux_loss_weight", fmt.Sprintf("is required with moe.aux_loss = %q, as the config.json has no router_aux_loss_coef", m.AuxLoss), "set it, for example to 1e-3")
	}
}

// checkExpertRanks checks that the experts can be spread over as many ranks as they are to be.
func (l *loader) checkExpertRanks() {
	p, e := l.config.Parallel, l.config.Architecture.Experts
	if !l.usable("parallel.expert", "parallel.data", "parallel.tensor", "parallel.context") {
		return
	}
	switch {
	case p.Expert == 1:
		if l.config.MoE.DispatchFactor != Default().MoE.DispatchFactor {
			l.problem("moe.dispatch_factor", "is not used where each rank has all experts", "remove it, or set parallel.expert")
		}
		return
	case e == nil:
		l.problem("parallel.expert", "the model has no experts", "use 1")
		return
	case p.Expert%p.Tensor != 0:
		l.problem("parallel.expert", fmt.Sprintf("%d is no multiple of parallel.tensor = %d: the ranks that share matrices are to share the experts too", p.Expert, p.Tensor),
			"use "+l.expertRanks())
		return
	case e.Count%p.Expert != 0:
		l.problem("parallel.expert", fmt.Sprintf("%d does not divide the model's %d experts", p.Expert, e.Count), "use "+l.expertRanks())
		return
	}
	if stage := l.stageRanks(); stage%p.Expert != 0 {
		l.problem("parallel.expert", fmt.Sprintf("%d does not divide data x tensor x context = %d x %d x %d ranks", p.Expert, p.Data, p.Tensor, p.Context),
			"use "+l.expertRanks())
	}
}

// stageRanks returns the number of ranks that hold the same layers, 0 if it is not known.
func (l *loader) stageRanks() int {
	p := l.config.Parallel
	return p.Data * p.Tensor * p.Context
}

// expertRanks names the numbers of ranks next to parallel.expert over which the experts can be spread.
func (l *loader) expertRanks() string {
	asked, experts, below, above := l.config.Parallel.Expert, l.config.Architecture.Experts.Count, 1, 0
	for n := 1; n <= experts; n++ {
		switch {
		case experts%n != 0 || l.stageRanks()%n != 0 || n > 1 && n%l.config.Parallel.Tensor != 0:
		case n <= asked:
			below = n
		case above == 0:
			above = n
		}
	}
	if above == 0 {
		return fmt.Sprint(below)
	}
	return fmt.Sprintf("%d or %d", below, above)
}
