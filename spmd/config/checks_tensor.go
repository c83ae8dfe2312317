package config

import (
	"fmt"
	"strings"

	"lockstep/spmd/model"
)

// checkTensor checks that tensor ranks can share the model and the tokens.
func (l *loader) checkTensor() {
	c, t := l.config, l.config.Parallel.Tensor
	if !l.usable("parallel.tensor") {
		return
	}
	if t == 1 {
		if l.usable("parallel.sequence_parallel") && c.Parallel.SequenceParallel {
			l.problem("parallel.sequence_parallel", "there are no tensor ranks to share the tokens", "remove it, or set parallel.tensor")
		}
		if l.usable("parallel.interleave_micro_batches") && c.Parallel.InterleaveMicroBatches {
			l.problem("parallel.interleave_micro_batches", "there are no tensor ranks that exchange anything", "remove it, or set parallel.tensor")
		}
		return
	}
	if what := cannotShare(c.Architecture, t); what != "" {
		l.problem("parallel.tensor", fmt.Sprintf("%d ranks cannot share %s", t, what), "use "+nearestTensor(c.Architecture, t))
	}
	l.checkHeldTokens()
	l.checkInterleaving()
	if o := c.Optimizer.Type; l.usable("optimizer.type") && (o == "muon" || o == "adafactor") {
		l.problem("parallel.tensor", fmt.Sprintf("%s looks at whole matrices, which tensor ranks do not have", quote(o)), `use 1, or optimizer.type = "adamw"`)
	}
}

// checkInterleaving checks that micro batches can be interleaved.
func (l *loader) checkInterleaving() {
	p := l.config.Parallel
	if !p.InterleaveMicroBatches || !l.usable("parallel.interleave_micro_batches") {
		return
	}
	if l.set["parallel.pipeline_schedule"] {
		l.problem("parallel.interleave_micro_batches", "is an order of passes of its own, and parallel.pipeline_schedule names another", "remove one of them")
	}
	for _, other := range []struct {
		key  string
		size int
	}{{"parallel.pipeline", p.Pipeline}, {"parallel.context", p.Context}, {"parallel.expert", p.Expert}} {
		if l.usable(other.key) && other.size > 1 {
			l.problem("parallel.interleave_micro_batches", fmt.Sprintf("is not available with %s = %d yet", other.key, other.size), "set it to false, or "+other.key+" to 1")
		}
	}
	if l.usable("parallel.zero_stage") && p.ZeROStage > 1 {
		l.problem("parallel.interleave_micro_batches", fmt.Sprintf("is not available with parallel.zero_stage = %d: two micro batches would use two layers' weights and gradients each", p.ZeROStage),
			"set it to false, or parallel.zero_stage to 1")
	}
}

// checkHeldTokens checks that with sequence parallelism each tensor rank holds the same number of tokens.
func (l *loader) checkHeldTokens() {
	c := l.config
	if !c.Parallel.SequenceParallel || !l.usable("parallel.sequence_parallel", "parallel.context", "train.micro_batch_size", "data.sequence_length") {
		return
	}
	t, batch, length := c.Parallel.Tensor, c.Train.MicroBatchSize, c.Data.SequenceLength/max(1, c.Parallel.Context)
	if batch*length%t == 0 {
		return
	}
	of := fmt.Sprintf("%d x %d tokens of a micro batch", batch, length)
	if c.Parallel.Context > 1 {
		of += " on each context rank"
	}
	l.problem("parallel.sequence_parallel", fmt.Sprintf("%d tensor ranks cannot share the %s evenly", t, of),
		fmt.Sprintf("use a sequence_length of %s, or set it to false", neighbours(c.Data.SequenceLength, t*max(1, c.Parallel.Context))))
}

// cannotShare says what of a model so many tensor ranks cannot share, "" where they can share all of it. Widths and vocabularies
// that they do not divide are cut in parts that differ by one.
func cannotShare(a *model.Config, tensor int) string {
	switch heads, keys := a.NumAttentionHeads, a.NumKeyValueHeads; {
	case heads%tensor != 0:
		return fmt.Sprintf("the model's %d attention heads evenly", heads)
	case a.Latent == nil && keys%tensor != 0 && tensor%keys != 0:
		return fmt.Sprintf("the model's %d key-value heads: neither number divides the other", keys)
	}
	widths := []struct {
		name string
		size int
	}{{"vocabulary", a.VocabSize}, {"feed-forward width", a.IntermediateSize}}
	if e := a.Experts; e != nil {
		widths = append(widths, struct {
			name string
			size int
		}{"experts' width", e.Width})
	}
	for _, w := range widths {
		if w.size < tensor {
			return fmt.Sprintf("the model's %s of %d", w.name, w.size)
		}
	}
	return ""
}

// nearestTensor names the numbers of tensor ranks next to one that does not fit the model.
func nearestTensor(a *model.Config, tensor int) string {
	var near []string
	for below := min(tensor, a.NumAttentionHeads); below >= 1; below-- {
		if cannotShare(a, below) == "" {
			near = append(near, fmt.Sprint(below))
			break
		}
	}
	for above := tensor + 1; above <= a.NumAttentionHeads; above++ {
		if cannotShare(a, above) == "" {
			near = append(near, fmt.Sprint(above))
			break
		}
	}
	return strings.Join(near, " or ")
}
