package train

import (
	"fmt"
	"strings"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// stages are how the layers are cut in chunks, and what runs them.
type stages struct {
	schedule             pipeline.Schedule
	training, evaluation pipeline.Report
	runs                 []model.Span // by chunk: its layers
}

// cutStages cuts the model's layers in chunks and makes the schedule that runs them. This rank keeps the weights of its own.
func (l *Layout) cutStages() (err error) {
	l.schedule = l.Config.Schedules(l.MyMicroBatches)
	chunks := l.schedule.NumChunks()
	layers := l.Model.Costs(l.Size, l.recompute)
	l.runs = layerRuns(l.Config.ChunkLayers(chunks, layers))
	costs := chunkCosts(l.runs, layers)
	if l.training, err = pipeline.Simulate(l.schedule, chunks, l.MyMicroBatches, costs); err != nil {
		return err
	}
	if l.evaluation, err = pipeline.SimulateForward(l.schedule, chunks, l.MyMicroBatches, costs); err != nil {
		return err
	}
	l.Model.Hold(l.stageRuns(l.Mesh.Coordinate(mesh.Pipeline))...)
	return nil
}

// chunkCosts adds up the costs of the layers of each chunk, as shares of a whole step's of one micro batch. Nothing takes no time.
func chunkCosts(runs []model.Span, layers []model.Cost) (c pipeline.Costs) {
	total := 0
	for _, layer := range layers {
		total += layer.Total()
	}
	share := func(n int) float64 { return max(float64(n)/float64(total), 1e-6) }
	for _, run := range runs {
		var sum model.Cost
		for _, layer := range layers[run.From:run.To] {
			sum = sum.Plus(layer)
		}
		c.Forward, c.Input, c.Weight = append(c.Forward, share(sum.Forward)), append(c.Input, share(sum.Input)), append(c.Weight, share(sum.Weight))
	}
	return c
}

// stageRuns returns the layers of a stage.
func (l *Layout) stageRuns(stage int) (runs []model.Span) {
	for _, chunk := range l.schedule.Chunks(stage) {
		runs = append(runs, l.runs[chunk])
	}
	return runs
}

// describeStages says how the layers are cut and how long ranks wait for each other, "" where there is one stage.
func (l *Layout) describeStages() string {
	if len(l.schedule) == 1 {
		return ""
	}
	var counts []string
	for i, run := range l.runs {
		n := run.To - run.From
		if i == 0 {
			n--
		}
		if i == len(l.runs)-1 {
			n--
		}
		counts = append(counts, fmt.Sprint(n))
	}
	return fmt.Sprintf("%s layers by %s: the stages idle for about %.0f %% of a step, see spmd plan", strings.Join(counts, " + "),
		l.Config.Parallel.PipelineSchedule, 100*l.training.Bubble)
}

// layerRuns returns the layers of each chunk, of which counts has the number of transformer layers: before them is the embedding,
// after them the head.
func layerRuns(counts []int) (runs []model.Span) {
	at := 0
	for i, n := range counts {
		run := model.Span{From: at, To: at + n}
		if i == 0 {
			run.To++
		}
		if i == len(counts)-1 {
			run.To++
		}
		runs = append(runs, run)
		at = run.To
	}
	return runs
}

// placeBoundary places what goes from chunk to chunk.
func (l *Layout) placeBoundary(a *kernels.Arena) model.Boundary {
	return l.Model.PlaceBoundary(l.Size, l.Config.Train.Residual(), balanceLosses[l.Config.MoE.AuxLoss], a)
}

// headStage returns the pipeline stage that has the last chunk, and so the loss.
func (l *Layout) headStage() int { return l.training.Home[len(l.runs)-1] }

// partner returns the stage with which this one shares the embedding's table.
func (l *Layout) partner() int {
	if first := l.training.Home[0]; first != l.Mesh.Coordinate(mesh.Pipeline) {
		return first
	}
	return l.headStage()
}

// lendRows brings the rows of the embedding's table that a batch touches to the rank that looks at them and does not have the table.
func (t *Trainer) lendRows() {
	s, g := t.Stream, t.placed.gradients
	s.Wait(t.rowsReturned)
	switch {
	case g.Touched.Len() == 0: // no id is in this rank's part of the vocabulary
	case t.Model.LendsTable():
		s.Wait(t.rowsLent)
		if layer, ok := t.Model.TableLayer(); ok {
			t.exchange.Use(s, layer, -1)
		}
		g.Lend(t.Device, s)
		t.rowsLent = t.pipeline.Send(g.Lent().Region(), t.partner(), s.Record())
	case t.Model.BorrowsTable():
		s.Wait(t.pipeline.Receive(g.Lent().Region(), t.partner(), s.Record()))
	}
}

// returnRows brings the gradients of borrowed rows to the rank with the table.
func (t *Trainer) returnRows() {
	lends, borrows := t.Model.LendsTable(), t.Model.BorrowsTable()
	if !lends && !borrows || t.placed.gradients.Touched.Len() == 0 { // no id is in this rank's part of the vocabulary
		return
	}
	s, rows := t.Stream, t.placed.gradients.Returned()
	switch {
	case rows.IsZero(): // the table is frozen
	case borrows:
		t.rowsReturned = t.pipeline.Send(rows.Region(), t.partner(), s.Record())
	default:
		s.Wait(t.pipeline.Receive(rows.Region(), t.partner(), s.Record()))
	}
}

// pipelineEvents are those of exchanges that the rank does not wait for at once.
type pipelineEvents struct{ rowsLent, rowsReturned device.Event }

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
