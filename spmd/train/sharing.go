package train

import (
	"slices"
	"strings"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// A sharing says what ranks that hold the same weights share instead of each having it whole, as S. Rajbhandari et al. have it in
// "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020: in stage 1 the optimizer's state, in stage 2
// gradients too, in stage 3 weights too.
type sharing struct {
	stage   int            // 0 where there is nobody to share with
	overlap bool           // whether they exchange gradients while the backward pass goes on
	once    bool           // whether they do so after each micro batch, and keep their shards alone
	buckets []model.Bucket // what they exchange at once
	shards  *model.Shards  // the buckets' parts
	owned   *model.Shards  // what this rank updates: its part, in stage 0 everything

	fixedBytes, gradientBytes, sharedBytes int // of the arenas
}

// share decides what the ranks share.
func (l *Layout) share() {
	c := l.Config
	most := int(c.Parallel.BucketMB*(1<<20)) / device.Float32.Size()
	l.overlap = c.Parallel.Overlap && len(l.Mesh.Ranks(mesh.Tensor, mesh.Context, mesh.Data)) > 1
	if len(l.Mesh.Replicas()) > 1 {
		l.stage = c.Parallel.ZeROStage
	}
	if l.stage == 3 {
		most = 0 // a layer's weights come together
	}
	// The tree in which gradients are added is that of all micro batches first where the layout must not show in the bits.
	l.once = l.stage >= 2 && (c.Run.Deterministic != "layout" || l.MyMicroBatches == 1)
	runs := l.stageRuns(l.Mesh.Coordinate(mesh.Pipeline))
	l.buckets = l.Model.Buckets(runs, most)
	if l.once {
		together := slices.ContainsFunc(l.schedule[l.Mesh.Coordinate(mesh.Pipeline)], func(a pipeline.Action) bool { return a.Overlapped })
		l.Model.Fold(l.buckets, together)
	}
	options := c.OptimizerOptions()
	l.shards = l.Model.Shard(l.buckets, l.places(), options.Whole(l.Model))
	l.owned = l.shards
	if l.stage == 0 {
		l.owned = l.Model.Undivided()
	}
}

// reducers returns the ranks that add up their gradients in a region of the buffer, this one included.
func (l *Layout) reducers(r model.Reducers) []int {
	switch r {
	case model.TensorReplicas:
		return l.Mesh.TensorReplicas(l.Mesh.Size(mesh.Tensor))
	case model.HeadReplicas:
		return l.Mesh.TensorReplicas(l.Model.Partition.HeadSharing(l.Config.Architecture.NumKeyValueHeads))
	case model.ExpertReplicas:
		return l.Mesh.ExpertReplicas()
	}
	return l.Mesh.Replicas()
}

// snapshotBytes returns the size of what this rank writes of the state: its part of what several ranks hold, and all that it owns.
func (l *Layout) snapshotBytes(p *placed) (bytes int) {
	reducers := map[string]model.Reducers{}
	for _, parameter := range l.Model.Parameters {
		reducers[parameter.Name] = l.shards.Reducers(parameter)
	}
	for _, t := range l.state(p) {
		holders := 1
		prefix, name, _ := strings.Cut(t.Name, "/")
		if l.stage == 0 || l.stage < 3 && prefix+"/" == WeightPrefix {
			holders = len(l.reducers(reducers[name]))
		}
		bytes += t.Slice.Len() * t.Value.DType.Size() / holders
	}
	return bytes
}

// places returns this rank's positions among the reducers.
func (l *Layout) places() (places [model.NumReducers]model.Place) {
	for r := range places {
		ranks := l.reducers(model.Reducers(r))
		places[r] = model.Place{Rank: slices.Index(ranks, l.Mesh.Rank), Ranks: len(ranks)}
	}
	return places
}

// placeWeights places weights and gradients.
func (l *Layout) placeWeights(p *placed, a arenas) {
	m := l.Model
	switch l.stage {
	case 0:
		p.weights = a.fixed.Tensor(device.Float32, m.WeightElements())
	case 3:
		p.weights = a.fixed.Tensor(device.Float32, l.shards.WeightElements())
		for i, bytes := range l.shards.Turns() {
			p.turns[i] = a.shared.Tensor(device.Uint8, bytes)
		}
	default:
		p.weights = a.shared.Tensor(device.Float32, m.WeightElements())
	}
	p.frozen = a.fixed.Tensor(device.Uint8, l.frozenBytes())
	p.buffers = []kernels.Tensor{a.shared.Tensor(device.Float32, m.GradientElements(l.rows()))}
	for range l.buffers - 1 {
		p.buffers = append(p.buffers, a.gradients.Tensor(device.Float32, m.GradientElements(l.rows())))
	}
	if l.once {
		p.shard = a.gradients.Tensor(device.Float32, l.shards.GradientElements())
	}
}

// frozenBytes returns how much this rank keeps of the frozen weights.
func (l *Layout) frozenBytes() int {
	if l.stage == 3 {
		return l.shards.FrozenBytes()
	}
	return l.Model.FrozenBytes()
}

// exchangedWeights returns how much of the memory that ranks exchange is for weights.
func (l *Layout) exchangedWeights(p *placed) int {
	if l.stage == 0 || l.stage == 3 {
		return p.turns[0].Bytes() + p.turns[1].Bytes()
	}
	return p.weights.Bytes()
}

// weightsOf returns where the weights of pieces are.
func (l *Layout) weightsOf(p *placed) func(piece model.Piece) kernels.Tensor {
	if l.stage == 3 {
		return func(piece model.Piece) kernels.Tensor { return piece.In(p.weights) }
	}
	return func(piece model.Piece) kernels.Tensor { return piece.Of(p.weights) }
}

// bind makes the model's weights views of the memory placed for them.
func (t *Trainer) bind() error {
	if t.stage == 3 {
		t.Model.BindTurns(t.shards, t.placed.weights, t.placed.frozen, t.placed.turns)
		return nil
	}
	return t.Model.Bind(t.placed.weights, t.placed.frozen)
}

// describe says what ranks share, "" where that is nothing.
func (s *sharing) describe() string {
	return [...]string{"", "the optimizer's state", "the optimizer's state and gradients", "the optimizer's state, gradients and weights"}[s.stage]
}
