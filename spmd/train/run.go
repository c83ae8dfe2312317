package train

import (
	"context"
	"fmt"
	"io"

	"lockstep/spmd/monitor"
	"lockstep/spmd/pipeline"
)

// Run trains to train.steps, or evaluates. It ends early, with a checkpoint, after run.stop_step and when ctx is done on any
// rank: all ranks stop after the same step.
func (t *Trainer) Run(ctx context.Context) error {
	if t.Config.Run.Mode == "evaluate" {
		return t.validate(0)
	}
	c := t.Config
	switch {
	case t.next >= c.Train.Steps:
		t.Log.Info("the run is already at train.steps; nothing is left to train", "step", t.next)
		return t.export(ctx, false)
	case c.Run.StopStep > 0 && t.next >= c.Run.StopStep:
		t.Log.Info("the run is already at run.stop_step; raise it or leave it out to go on", "step", t.next)
		return nil
	case t.next == 0 && t.validation != nil:
		if err := t.validate(0); err != nil { // where the curve begins
			return err
		}
	}
	for t.next < c.Train.Steps {
		row, stopped, err := t.step(t.next, ctx.Err() != nil)
		if err != nil {
			return err
		}
		t.next++
		if err := t.report(func(s monitor.Sink) error { return s.Step(row) }); err != nil {
			return err
		}
		if every := c.Data.ValidationInterval; every > 0 && t.next%every == 0 && t.next < c.Train.Steps {
			if err := t.validate(t.next); err != nil {
				return err
			}
		}
		if stopped || t.next == c.Run.StopStep && t.next < c.Train.Steps {
			return t.stop(stopped)
		}
		if err := t.saveInterval(); err != nil {
			return err
		}
	}
	return t.finish(ctx)
}

// stop ends the run early, resumable.
func (t *Trainer) stop(told bool) error {
	if err := t.save(); err != nil {
		return err
	}
	if told {
		t.Log.Info("the run was told to stop; the same command goes on from here", "step", t.next)
	} else {
		t.Log.Info("run.stop_step is reached; raise it or leave it out to go on", "step", t.next)
	}
	return nil
}

// finish validates, saves the last checkpoint and writes the trained model.
func (t *Trainer) finish(ctx context.Context) error {
	if t.validation != nil {
		if err := t.validate(t.next); err != nil {
			return err
		}
	}
	if err := t.save(); err != nil {
		return err
	}
	return t.export(ctx, true)
}

// validate computes the loss of the validation data, of the averaged weights where the configuration says so.
func (t *Trainer) validate(step int) error {
	if t.placed.average != nil && t.Config.Optimizer.EMAValidation {
		return t.onAverage(func() error { return t.validateWeights(step) })
	}
	return t.validateWeights(step)
}

// validateWeights computes the mean loss over the label tokens of the validation batches, in micro batches that the data ranks
// share.
func (t *Trainer) validateWeights(step int) error {
	batches := max(1, int(t.validation.Samples())/t.Config.Train.GlobalBatchSize)
	if limit := t.Config.Data.ValidationBatches; limit > 0 {
		batches = min(batches, limit)
	}
	total, tokens := 0.0, int64(0)
	for b := range batches {
		sum, labels, err := t.validateBatch(b)
		if err != nil {
			return err
		}
		total, tokens = total+sum, tokens+labels
	}
	v := monitor.Validation{Step: step, Steps: t.Config.Train.Steps, Loss: mean(total, tokens)}
	return t.report(func(s monitor.Sink) error { return s.Validation(v) })
}

// validateBatch returns the sum of the losses of one batch of global_batch_size samples, and its label tokens.
func (t *Trainer) validateBatch(batch int) (sum float64, labels int64, err error) {
	if labels, err = t.labels(t.validation, batch); err != nil {
		return 0, 0, err
	}
	load := func(microBatch int, b pipeline.Batch) error { return t.batch(t.validation, batch, microBatch, b) }
	step := pipeline.Step{}
	if t.Model.LendsTable() || t.Model.BorrowsTable() {
		if err := t.touch(t.validation, batch); err != nil {
			return 0, 0, err
		}
		step.Touched = t.placed.gradients.Touched
		t.lendRows()
	}
	if err := t.placed.executor.Evaluate(load, step); err != nil {
		return 0, 0, err
	}
	t.Stream.Wait(t.shareReport(false))
	sum, _, err = t.readReport()
	return sum, labels, err
}

// report hands a record to the sink of rank 0.
func (t *Trainer) report(to func(monitor.Sink) error) error {
	if t.Mesh.Rank != 0 {
		return nil
	}
	if err := to(t.Sink); err != nil {
		return fmt.Errorf("reporting step %d: %w", t.next, err)
	}
	return nil
}

// Done reports whether the run is at train.steps.
func (t *Trainer) Done() bool {
	return t.Config.Run.Mode != "evaluate" && t.next >= t.Config.Train.Steps
}

// DescribeData prints what the run trains and validates on, and where it goes on from.
func (t *Trainer) DescribeData(w io.Writer) {
	if t.training != nil {
		samples := int64(t.Config.Train.Steps) * int64(t.Config.Train.GlobalBatchSize)
		fmt.Fprintf(w, "%-11s%s\n", "data", t.training.Summary(samples))
	}
	if t.validation != nil {
		fmt.Fprintf(w, "%-11s%s\n", "validation", t.validation.Summary(0))
	}
	if t.resumedAt > 0 {
		fmt.Fprintf(w, "%-11sthe run goes on after step %d\n", "resume", t.resumedAt)
	}
}
