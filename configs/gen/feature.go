package main

import (
	"maps"
	"slices"

	"lockstep/spmd/config"
	"lockstep/spmd/model"
)

// features is a set of names of what a run asks of the trainer beside the family that its model is of. Each stands for code
// of its own, which families share.
type features map[string]bool

// add puts the first name into the set where is is true, else the second, if there is one.
func (f features) add(is bool, name, otherwise string) {
	if !is {
		name = otherwise
	}
	if name != "" {
		f[name] = true
	}
}

// missing returns what f has and other lacks, sorted.
func (f features) missing(other features) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f)), func(name string) bool { return other[name] })
}

// The features of a training step.
const (
	featureDocuments  = "documents kept apart"
	featureLoRA       = "LoRA"
	featurePrediction = "multi-token prediction"
	featureBias       = "moving bias of routers"
	featureZLoss      = "z-loss of routers"
	featureAuxLoss    = "balancing loss " // and its kind
)

// architectureFeatures returns what a config.json asks for.
func architectureFeatures(a *model.Config) features {
	f := features{}
	f.add(true, a.RoPE.Type+" RoPE", "")
	f.add(a.RoPE.Interleaved, "RoPE on pairs", "RoPE in halves")
	f.add(a.TieWordEmbeddings, "tied embeddings", "separate output head")
	f.add(a.QKVBias, "bias on q, k and v", "")
	f.add(a.OutputBias, "bias on attention's output", "")
	f.add(a.QKNorm, "norm of queries and keys", "")
	if l := a.Latent; l != nil {
		f.add(l.QueryRank > 0, "latent attention with latent queries", "latent attention with plain queries")
	} else {
		f.add(a.NumKeyValueHeads < a.NumAttentionHeads, "grouped queries", "keys for each head")
	}
	if e := a.Experts; e != nil {
		f.add(e.Route.Sigmoid, "sigmoid router", "softmax router")
		f.add(e.Route.Groups > 1, "experts in groups", "experts without groups")
		f.add(e.Route.Normalize, "normalised weights of experts", "weights of experts as scored")
		f.add(e.Shared > 0, "shared experts", "")
	}
	return f
}

// runFeatures returns what a configuration asks for.
func runFeatures(c *config.Config) features {
	f := architectureFeatures(c.Architecture)
	f.add(c.Data.ResetAttentionMask, featureDocuments, "")
	f.add(c.LoRA.Rank > 0, featureLoRA, "")
	f.add(c.Train.MTPLossWeight > 0, featurePrediction, "")
	f.add(c.MoE.BiasUpdateRate > 0, featureBias, "")
	f.add(c.MoE.ZLossWeight > 0, featureZLoss, "")
	f.add(c.MoE.AuxLoss != "none", featureAuxLoss+c.MoE.AuxLoss, "")
	return f
}
