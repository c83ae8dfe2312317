// Package plan says what a configuration comes to on a number of ranks before anything starts: the memory of each rank, what it sends in
// a step, how long it computes, and how long the ranks of a pipeline wait for each other.
package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/config"
	"lockstep/spmd/model"
	"lockstep/spmd/train"
)

// A Plan is that of a configuration.
type Plan struct {
	// Stages are the layouts of the first rank of each stage of the pipeline. The others of a stage have as much, but for what
	// does not divide evenly.
	Stages []*train.Layout
}

// New plans a configuration for a number of ranks. It allocates nothing.
func New(k kernels.Device, c *config.Config, world int) (*Plan, error) {
	p := &Plan{}
	for stage := range c.Parallel.Pipeline {
		l, err := train.NewLayout(k, c, stage*world/c.Parallel.Pipeline, world)
		if err != nil {
			return nil, err
		}
		p.Stages = append(p.Stages, l)
	}
	return p, nil
}

// Write prints the plan. rate is how many floating-point operations a rank does in a second, 0 where it is not known.
func (p *Plan) Write(w io.Writer, rate float64) error {
	p.Stages[0].Describe(w)
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "each rank of\tlayers\tweights\toptimizer\tgradients\tactivations\tscratch\tall memory\tcomputes\tidles\t")
	for i, l := range p.Stages {
		m, stage := l.Memory, l.Stage()
		fmt.Fprintf(t, "stage %d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f GFLOP\t%.1f %%\t\n", i, layers(stage.Layers, len(l.Model.Layers)), size(m.Weights), size(m.Optimizer),
			size(m.Gradients), size(m.Activations), size(m.Scratch+m.Exchanged), size(m.Total()),
			stage.Operations/1e9, 100*stage.Idle)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := p.writeTraffic(w); err != nil {
		return err
	}
	if n := len(p.Stages); n > 1 {
		fmt.Fprintf(w, "\nThe %d stages idle for %.1f %% of a step, all together, where what they exchange takes no time.\n", n, 100*p.Stages[0].Pipeline().Report.Bubble)
	}
	if rate > 0 {
		fmt.Fprintf(w, "A step takes about %v of computation at %.0f GFLOP/s, the rate of a large product on this machine.\n", p.stepTime(rate).Round(time.Millisecond), rate/1e9)
	}
	return nil
}

// writeTraffic prints what ranks send in a step, for each kind of group of which some have several.
func (p *Plan) writeTraffic(w io.Writer) error {
	kinds := []struct {
		name string
		of   func(t train.Traffic) int
	}{
		{"to stages", func(t train.Traffic) int { return t.Stages }}, {"gradients", func(t train.Traffic) int { return t.Gradients }},
		{"weights", func(t train.Traffic) int { return t.Weights }}, {"to tensor ranks", func(t train.Traffic) int { return t.Tensor }},
		{"to context ranks", func(t train.Traffic) int { return t.Context }}, {"to experts", func(t train.Traffic) int { return t.Experts }},
		{"all", train.Traffic.Total},
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows := make([]string, len(p.Stages))
	head := ""
	for _, k := range kinds {
		most := 0
		for _, l := range p.Stages {
			most = max(most, k.of(l.Traffic()))
		}
		if most == 0 {
			continue
		}
		head += k.name + "\t"
		for i, l := range p.Stages {
			rows[i] += size(k.of(l.Traffic())) + "\t"
		}
	}
	if head == "" { // one rank
		return nil
	}
	fmt.Fprintf(t, "\nin a step each rank sends\t%s\n", head)
	for i, row := range rows {
		fmt.Fprintf(t, "of stage %d\t%s\n", i, row)
	}
	return t.Flush()
}

// stepTime returns how long the stage that computes the most takes, with its idle time.
func (p *Plan) stepTime(rate float64) time.Duration {
	longest := 0.0
	for _, l := range p.Stages {
		if s := l.Stage(); s.Idle < 1 {
			longest = max(longest, s.Operations/rate/(1-s.Idle))
		}
	}
	return time.Duration(longest * float64(time.Second))
}

// layers names the runs of a stage, transformer layers by their numbers from 0: "embedding, 0-2; 9-11, head".
func layers(runs []model.Span, all int) string {
	var parts []string
	for _, r := range runs {
		var names []string
		first, last := r.From-1, r.To-2 // transformer layers
		if r.From == 0 {
			names, first = append(names, "embedding"), 0
		}
		if r.To == all {
			last--
		}
		switch {
		case first == last:
			names = append(names, fmt.Sprint(first))
		case first < last:
			names = append(names, fmt.Sprintf("%d-%d", first, last))
		}
		if r.To == all {
			names = append(names, "head")
		}
		parts = append(parts, strings.Join(names, ", "))
	}
	return strings.Join(parts, "; ")
}

func size(bytes int) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// Rate measures how many floating-point operations a second the device does in a large product.
func Rate(k kernels.Device, s device.Stream) (float64, error) {
	const n, least = 768, 200 * time.Millisecond
	storage, err := k.Alloc(3 * n * n * device.Float32.Size())
	if err != nil {
		return 0, err
	}
	arena := kernels.NewArena(storage)
	a, b, c := arena.Tensor(device.Float32, n, n), arena.Tensor(device.Float32, n, n), arena.Tensor(device.Float32, n, n)
	products := 0
	for started := time.Now(); ; products++ {
		if passed := time.Since(started); passed > least {
			return 2 * n * n * n * float64(products) / passed.Seconds(), storage.Free()
		}
		k.MatMul(s, c, a, b, kernels.MatMulOptions{})
		if err := s.Synchronize(); err != nil {
			return 0, err
		}
	}
}
