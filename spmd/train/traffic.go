package train

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// Traffic is what a rank sends in a step, in bytes. What layers exchange within themselves because ranks share tokens or experts is not
// in it.
type Traffic struct {
	// Stages is what passes from stage to stage: activations, their gradients, and at most all rows of the embedding's table that
	// a step can touch.
	Stages int
	// Gradients is what ranks that hold the same weights send to add up their gradients: twice all but one part of as many as
	// there are ranks.
	Gradients int
	// Tensor is what tensor ranks send each other around attention and feed-forward networks.
	Tensor int
}

// Traffic returns that of this rank.
func (l *Layout) Traffic() (t Traffic) {
	boundary := l.placeBoundary(new(kernels.Arena)).Region().Bytes
	for _, exchange := range l.training.Programs[l.Mesh.Coordinate(mesh.Pipeline)].Exchanges {
		for _, x := range exchange {
			if !x.Receive {
				t.Stages += boundary
			}
		}
	}
	rows := l.rows() * l.Config.Architecture.HiddenSize * device.Float32.Size()
	if l.Model.LendsTable() {
		t.Stages += rows
	}
	if l.Model.BorrowsTable() {
		t.Stages += l.Model.GradientElements(l.rows())*device.Float32.Size() - l.Model.GradientElements(0)*device.Float32.Size()
	}
	for _, r := range l.Model.Regions() {
		to := r.To
		if r.Reducers == model.Replicas { // with the touched rows
			to = l.Model.GradientElements(l.rows())
		}
		n := len(l.reducers(r.Reducers))
		t.Gradients += 2 * (to - r.From) * device.Float32.Size() * (n - 1) / n
	}
	if l.Mesh.Size(mesh.Tensor) > 1 {
		stage := l.Mesh.Coordinate(mesh.Pipeline)
		sent := l.Model.TensorTraffic(l.Size, l.Config.Train.Activations(), l.recompute, l.training.Split[stage])
		for _, run := range l.stageRuns(stage) {
			for _, bytes := range sent[run.From:run.To] {
				t.Tensor += bytes * l.MyMicroBatches
			}
		}
	}
	return t
}

// Pipeline returns the order of passes in a step and what it comes to, by estimates of their arithmetic.
func (l *Layout) Pipeline() pipeline.Timeline {
	return pipeline.Timeline{Schedule: l.schedule, Report: l.training}
}

// Stage says what a stage of the pipeline does.
type Stage struct {
	// Layers are the runs of layers that it has, counted from the embedding, which is layer 0.
	Layers []model.Span
	// Operations are the floating-point operations of one rank in a step.
	Operations float64
	// Idle is the share of the step that it waits for others.
	Idle float64
}

// Stage describes this rank's.
func (l *Layout) Stage() Stage {
	stage := l.Mesh.Coordinate(mesh.Pipeline)
	s := Stage{Layers: l.stageRuns(stage)}
	costs := l.Model.Costs(l.Size, l.recompute)
	for _, run := range s.Layers {
		for _, c := range costs[run.From:run.To] {
			s.Operations += 2 * float64(c.Total()) * float64(l.MyMicroBatches)
		}
	}
	busy, last := 0.0, -1.0
	for _, run := range l.training.Times[stage] {
		if run.From != last { // else it runs together with the one before
			busy += run.To - run.From
		}
		last = run.From
	}
	s.Idle = max(0, 1-busy/l.training.Time)
	return s
}
