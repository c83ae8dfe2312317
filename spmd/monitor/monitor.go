// Package monitor tells people and programs how a run goes: one record per step, handed to every sink.
//
// A sink is where records end up: metrics.jsonl (JSONL) for programs, aligned lines with a progress bar (Console) for
// people. The training step makes one record and knows no sink; a new one is a type with the methods of Sink. Sinks take
// what they are given and compute nothing that the run depends on.
package monitor

import (
	"errors"
	"math"
	"time"
)

// A Step is what there is to say about one training step.
type Step struct {
	// Step is the number of the step, from 1; Steps that of the last one of the run.
	Step, Steps int
	// Loss is the mean over the step's label tokens, in nats; GradNorm the global norm before clipping; LR the learning
	// rate that the step used.
	Loss, GradNorm, LR float64
	// Tokens is how many label tokens the step had, over all ranks.
	Tokens int64
	// PredictionLoss is the loss of multi-token prediction, without its weight, 0 where there is none.
	PredictionLoss float64
	// Experts is what the layers with experts report.
	Experts Experts
	// Time is how long the step took, from fetching its batch to the updated weights.
	Time time.Duration
	// Exposed is how much of it the first rank's computation stood still for communication, and so for other ranks.
	Exposed time.Duration
}

// Experts is what there is to say about a mixture of experts in one step. The zero value is that of a model without.
type Experts struct {
	// BalanceLoss and ZLoss are the auxiliary losses without their weights, averaged over micro batches.
	BalanceLoss, ZLoss float64
	// MaxLoad and MinLoad are the assignments of the most and of the least used expert of any layer, by the mean of its
	// layer: 1 where the load is even. 0 without experts.
	MaxLoad, MinLoad float64
	// Rounds is the most rounds in which a micro batch's tokens were sent to the ranks of their experts, 0 where each rank has
	// all experts.
	Rounds int
	// Dropped is the share of assignments that were dropped because their expert had no capacity left.
	Dropped float64
}

// TokensPerSecond returns the speed of the step over all ranks, 0 where its time was not measured.
func (s Step) TokensPerSecond() float64 {
	if s.Time <= 0 {
		return 0
	}
	return float64(s.Tokens) / s.Time.Seconds()
}

// A Validation is the result of a pass over held-out data.
type Validation struct {
	// Step is how many steps the weights have been trained for, 0 for none; Steps the number of the run's last one.
	Step, Steps int
	// Loss is the mean over the label tokens of the held-out data, in nats.
	Loss float64
}

// Perplexity returns e to the power of the loss: among how many equally likely tokens the model is as uncertain.
func (v Validation) Perplexity() float64 { return math.Exp(v.Loss) }

// A Checkpoint is what there is to say about one that was made between two steps.
type Checkpoint struct {
	// Step is the number of the step after which it was made.
	Step int
	// Stall is how long the steps waited for it: until the state was copied, or written where that is not in the background.
	Stall time.Duration
}

// A Sink takes the records of a run, in order, from one goroutine.
type Sink interface {
	Step(Step) error
	Validation(Validation) error
	Checkpoint(Checkpoint) error
	// Close writes what is left. The sink is not used afterwards.
	Close() error
}

// Sinks is a Sink that hands each record to all of its elements. One that fails keeps none of the others from theirs;
// the errors come back joined.
type Sinks []Sink

// Step implements Sink.
func (s Sinks) Step(r Step) error { return s.each(func(sink Sink) error { return sink.Step(r) }) }

// Validation implements Sink.
func (s Sinks) Validation(r Validation) error {
	return s.each(func(sink Sink) error { return sink.Validation(r) })
}

// Checkpoint implements Sink.
func (s Sinks) Checkpoint(r Checkpoint) error {
	return s.each(func(sink Sink) error { return sink.Checkpoint(r) })
}

// Close implements Sink.
func (s Sinks) Close() error { return s.each(Sink.Close) }

func (s Sinks) each(f func(Sink) error) error {
	var errs []error
	for _, sink := range s {
		if err := f(sink); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
