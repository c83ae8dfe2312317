package train

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// Traffic is what a rank sends in a training step, in bytes, where all ranks that exchange something have as much of it: of n ranks
// each sends (n-1)/n of what it takes part in. What ranks tell each other about the step, such as losses, is not in it.
type Traffic struct {
	// Stages is what passes from stage to stage: activations, their gradients, and at most all rows of the embedding's table that
	// a step can touch.
	Stages int
	// Gradients is what ranks that hold the same weights send to add up their gradients: each byte twice, or once where each rank needs
	// its part of the sum alone (ZeRO); in a step, or after each micro batch where they keep that part alone. Of the embedding's
	// table at most all rows that a step can touch.
	Gradients int
	// Weights is what ranks send that share the optimizer's state to have the new weights everywhere, once in a step; and where they
	// share the weights too, whenever a layer is used whose weights are in neither of the two places for them.
	Weights int
	// Tensor is what tensor ranks send each other around attention and feed-forward networks.
	Tensor int
	// Context is what ranks that share samples send each other in attention.
	Context int
	// Experts is what ranks that share experts send each other where the experts' load is even.
	Experts int
}

// Total returns the sum.
func (t Traffic) Total() int {
	return t.Stages + t.Gradients + t.Weights + t.Tensor + t.Context + t.Experts
}

// Traffic returns that of this rank.
func (l *Layout) Traffic() Traffic {
	stage, dtype := l.Mesh.Coordinate(mesh.Pipeline), l.Config.Train.Activations()
	t := Traffic{Stages: l.stageTraffic(), Gradients: l.gradientTraffic(), Weights: l.weightTraffic()}
	if l.Mesh.Size(mesh.Tensor) > 1 {
		t.Tensor = l.ofLayers(l.Model.TensorTraffic(l.Size, dtype, l.recompute, l.training.Split[stage]))
	}
	t.Context = l.ofLayers(l.Model.ContextTraffic(l.Size, dtype, l.recompute))
	t.Experts = l.ofLayers(l.Model.ExpertTraffic(l.Size, dtype, l.recompute))
	return t
}

// ofLayers adds up what this rank's layers send, over its micro batches.
func (l *Layout) ofLayers(sent []int) (bytes int) {
	for _, run := range l.stageRuns(l.Mesh.Coordinate(mesh.Pipeline)) {
		for _, n := range sent[run.From:run.To] {
			bytes += n * l.MyMicroBatches
		}
	}
	return bytes
}

func (l *Layout) stageTraffic() (bytes int) {
	boundary := l.placeBoundary(new(kernels.Arena)).Region().Bytes
	for _, exchange := range l.training.Programs[l.Mesh.Coordinate(mesh.Pipeline)].Exchanges {
		for _, x := range exchange {
			if !x.Receive {
				bytes += boundary
			}
		}
	}
	if l.Model.LendsTable() {
		bytes += l.rows() * l.Config.Architecture.HiddenSize * device.Float32.Size()
	}
	if l.Model.BorrowsTable() {
		bytes += l.touchedBytes()
	}
	return bytes
}

// touchedBytes returns the size of the gradients of the rows of the embedding's table, at most.
func (l *Layout) touchedBytes() int {
	return (l.Model.GradientElements(l.rows()) - l.Model.GradientElements(0)) * device.Float32.Size()
}

// ofOthers returns how much of some bytes is for the other ones of the ranks that add up gradients.
func (l *Layout) ofOthers(r model.Reducers, bytes int) int {
	n := len(l.reducers(r))
	return bytes * (n - 1) / n
}

func (l *Layout) gradientTraffic() (bytes int) {
	way, times, rowsWay := 2, 1, 2
	if l.stage > 0 {
		way = 1
	}
	if l.once {
		times = l.MyMicroBatches
	}
	for _, b := range l.buckets {
		if b.Kind == model.TableBucket { // its rows have owners
			rowsWay = way
			continue
		}
		bytes += way * times * l.ofOthers(b.Reducers, (b.Gradients.To-b.Gradients.From)*device.Float32.Size())
	}
	return bytes + rowsWay*l.ofOthers(model.Replicas, l.touchedBytes())
}

func (l *Layout) weightTraffic() (bytes int) {
	gathers := l.shards.Gathers()
	switch l.stage {
	case 0:
	case 3:
		needs := l.shards.Needs()
		for layer, times := range l.fetches() {
			for _, n := range needs[layer] {
				bytes += times * l.ofOthers(gathers[n.Gather].Reducers, gathers[n.Gather].Bytes)
			}
		}
	default:
		for _, g := range gathers[:len(l.buckets)] {
			bytes += l.ofOthers(g.Reducers, g.Bytes)
		}
	}
	return bytes
}

// fetches returns how often in a step each layer's weights are brought to one of the two places for them: whenever a pass comes to a layer and
// another one has been in its place. Passes that run together are taken to come to their layers in turns.
func (l *Layout) fetches() []int {
	times, turns := make([]int, len(l.Model.Layers)), [2]int{-1, -1}
	use := func(layer int) {
		if turns[layer%2] != layer {
			turns[layer%2] = layer
			times[layer]++
		}
	}
	if layer, ok := l.Model.TableLayer(); ok && l.Model.LendsTable() {
		use(layer)
	}
	actions := l.schedule[l.Mesh.Coordinate(mesh.Pipeline)]
	for i := 0; i < len(actions); i++ {
		passes := [][]int{l.layersOf(actions[i])}
		if actions[i].Overlapped {
			i++
			passes = append(passes, l.layersOf(actions[i]))
		}
		for n := 0; n < max(len(passes[0]), len(passes[len(passes)-1])); n++ {
			for _, layers := range passes {
				if n < len(layers) {
					use(layers[n])
				}
			}
		}
	}
	return times
}

// layersOf returns the layers that an action comes to, in order.
func (l *Layout) layersOf(a pipeline.Action) (layers []int) {
	span, lowest := l.Model.Chunk(l.runs[a.Chunk].From, l.runs[a.Chunk].To).Layers()
	if a.Kind == pipeline.Forward {
		for layer := span.From; layer < span.To; layer++ {
			layers = append(layers, layer)
		}
		return layers
	}
	for layer := span.To - 1; layer >= lowest; layer-- {
		layers = append(layers, layer)
	}
	return layers
}
