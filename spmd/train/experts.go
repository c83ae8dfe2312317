package train

import (
	"math"

	"lockstep/kernels/device"
	"lockstep/spmd/model"
	"lockstep/spmd/monitor"
)

// balanceLosses are the values of moe.aux_loss.
var balanceLosses = map[string]model.BalanceLoss{"none": model.NoBalanceLoss, "hf": model.BalanceMicroBatch, "sequence": model.BalanceSequence, "global": model.BalanceGlobal}

// clearLoad starts the count of a step's assignments to experts.
func (t *Trainer) clearLoad() {
	if load := t.placed.load; !load.IsZero() {
		t.Device.Zero(t.Stream, load)
		t.placed.balancing.Rounds = 0
	}
}

// shareLoad adds the ranks' counts, those of other stages' layers included. They are whole numbers, so that the order of the sum does
// not matter.
func (t *Trainer) shareLoad() device.Event {
	if t.placed.load.IsZero() {
		return device.Event{}
	}
	return t.world.AllReduce(t.placed.load.Region(), t.wideSum, t.Stream.Record())
}

// balanceExperts moves the routers' biases against the step's load.
func (t *Trainer) balanceExperts() {
	if rate := t.Config.MoE.BiasUpdateRate; rate > 0 && !t.placed.load.IsZero() {
		t.Model.UpdateBiases(t.Device, t.Stream, t.placed.load, t.placed.optimizer.Norm(), rate)
	}
}

// readExperts reads what a step says about its experts. The report has been read.
func (t *Trainer) readExperts() (e monitor.Experts, err error) {
	load := t.placed.load
	if load.IsZero() {
		return e, nil
	}
	layers, perToken := load.Shape[0], float64(t.Size.Batch*t.Size.Whole())
	if t.Config.MoE.CapacityFactor > 0 {
		layers /= 2
	}
	t.eachAuxiliary(func(i int, v float64) {
		switch v /= float64(t.MicroBatches); i / layers {
		case 0:
			e.BalanceLoss += v
		case 1:
			e.ZLoss += v / perToken // it comes as a sum over the tokens of its micro batch
		}
	})
	if t.host.load == nil {
		t.host.load = make([]float64, load.Len())
	}
	if err := t.Device.Read(t.Stream, device.BytesOf(t.host.load), load.Region()); err != nil {
		return e, err
	}
	all, kept := t.host.load[:layers*load.Last()], t.host.load[layers*load.Last():]
	e.MaxLoad, e.MinLoad = spread(all, load.Last())
	if len(kept) > 0 {
		e.Dropped = 1 - total(kept)/total(all)
	}
	e.Rounds = t.rounds()
	return e, nil
}

func total(counts []float64) (sum float64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// spread returns the largest and the smallest load of an expert, by the mean of its layer. loads has the given number of experts
// for each layer.
func spread(loads []float64, experts int) (most, least float64) {
	least = math.Inf(1)
	for at := 0; at < len(loads); at += experts {
		layer := loads[at : at+experts]
		sum := total(layer)
		for _, n := range layer {
			share := n * float64(experts) / sum
			most, least = max(most, share), min(least, share)
		}
	}
	return most, least
}
