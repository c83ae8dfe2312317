package train

import (
	"fmt"
	"math"
	"time"

	"lockstep/kernels/device"
	"lockstep/spmd/data"
	"lockstep/spmd/monitor"
	"lockstep/spmd/pipeline"
)

// step makes training step i, counted from 0: fetch, forward and backward, reduce, clip, update, log. Everything is enqueued
// without waiting; the host waits once, when it reads the numbers to log.
func (t *Trainer) step(i int, stop bool) (row monitor.Step, stopped bool, err error) {
	started, waited := time.Now(), t.waited()
	k, s, gradients := t.Device, t.Stream, t.placed.gradients
	lr := t.schedule.LR(i)

	// Forward and backward: the schedule's actions, micro batch by micro batch. The loss is the mean over the step's label
	// tokens, so each token's gradient is scaled by one over their number.
	labels, err := t.labels(t.training, i)
	if err != nil {
		return row, false, err
	}
	if err := t.touch(t.training, i); err != nil {
		return row, false, err
	}
	t.lendRows()
	t.clearLoad()
	if err := t.placed.executor.Run(t.load(i), pipeline.Step{LossScale: mean(1, labels), Touched: gradients.Touched, Sample: t.sample(i)}); err != nil {
		return row, false, err
	}

	// Reduce: ranks that hold the same weights add what is left of their gradients in the aligned tree, and all exchange their
	// losses.
	t.exchange.finish()
	s.Wait(t.shareReport(stop))
	s.Wait(t.shareLoad())
	t.exchange.wait()
	t.returnRows()
	gradients.Merge(k, s)

	// Clip and update: the factor and the all-finite flag stay on the device.
	squares := t.placed.optimizer.SumSquares(k, s, gradients)
	s.Wait(t.world.AllReduce(squares.Region(), t.wideSum, s.Record()))
	t.placed.optimizer.Clip(k, s)
	t.placed.optimizer.Update(k, s, gradients, i+1, lr)
	t.balanceExperts()
	t.averageWeights()
	t.exchange.share()

	// Log: the only reads of the step.
	sum, stopped, err := t.readReport()
	if err != nil {
		return row, false, err
	}
	experts, err := t.readExperts()
	if err != nil {
		return row, false, err
	}
	norm, err := t.readNorm()
	if err != nil {
		return row, false, err
	}
	loss := mean(sum, labels)
	if math.IsNaN(loss) || math.IsInf(loss, 0) || math.IsNaN(norm) || math.IsInf(norm, 0) {
		return row, false, fmt.Errorf("step %d: the loss is %g and the gradient norm %g; the weights are still those of step %d: "+
			"lower optimizer.lr, lengthen lr_schedule.warmup_steps, or look at this step's data", i+1, loss, norm, i)
	}
	return monitor.Step{Step: i + 1, Steps: t.Config.Train.Steps, Loss: loss, GradNorm: norm, LR: lr,
		Tokens: labels, PredictionLoss: t.predictionLoss(labels), Experts: experts, Time: time.Since(started), Exposed: t.waited() - waited}, stopped, nil
}

// waited returns how long this rank's computation has stood still for communication so far, as its streams and its groups know.
func (t *Trainer) waited() time.Duration {
	waited := t.World.Blocked()
	for _, s := range []device.Stream{t.Stream, t.Beside} {
		if timed, ok := s.(device.TimedStream); ok {
			waited += timed.Waited()
		}
	}
	return waited
}

// hostMemory is what the step needs on the host, kept so that a step allocates nothing.
type hostMemory struct {
	step   int             // whose micro batches fill loads
	fill   pipeline.Loader // of this rank's training data
	add    func(ids []int32) error
	mine   [hostReportLen]float64
	report []float64 // of all ranks
	load   []float64 // of all ranks together
	clip   [3]float64
}

// touch finds the ids of a step, over all data ranks: each reads them all, as the gradient's rows must be the same ones everywhere.
func (t *Trainer) touch(d *data.Dataset, step int) error {
	g := t.placed.gradients
	if !t.Model.UsesTable() {
		return nil
	}
	if t.host.add == nil {
		t.host.add = g.Touched.Add
	}
	g.Touched.Clear()
	if err := d.Inputs(step, t.Config.Train.GlobalBatchSize, t.host.add); err != nil {
		return err
	}
	g.Touched.Sort()
	g.WriteIDs(t.Device, t.Stream)
	return nil
}

// load returns what fills this rank's micro batches of step i.
func (t *Trainer) load(i int) pipeline.Loader {
	t.host.step = i
	if t.host.fill == nil {
		t.host.fill = func(microBatch int, b pipeline.Batch) error {
			return t.batch(t.training, t.host.step, microBatch, b)
		}
	}
	return t.host.fill
}

// readNorm returns the gradients' global norm before clipping.
func (t *Trainer) readNorm() (float64, error) {
	clip := t.host.clip[:]
	err := t.Device.Read(t.Stream, device.BytesOf(clip), t.placed.optimizer.Norm().Region())
	return clip[0], err
}
