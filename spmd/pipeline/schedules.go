package pipeline

import "slices"

// The schedules. F, I and W stand for the times of a chunk's forward pass, its gradient of the input and that of the weights, p for
// ranks, m for micro batches; B is I and W.

// gpipe is all forward passes, then all backward passes (Huang et al., "GPipe: Efficient Training of Giant Neural Networks using
// Pipeline Parallelism", 2019). Every rank keeps m micro batches and idles for (p-1)(F+B).
func gpipe(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		order := microBatches(s.MicroBatches, r)
		return inTurn(order, order, len(order), none)
	})
}

// oneFOneB is the 1F1B schedule (PipeDream-flush: Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", 2021): rank r
// runs p-1-r forward passes ahead, then one forward and one backward in turn. It idles as long as gpipe, and rank r keeps p-r
// micro batches. On one rank it is a forward and a backward pass for each micro batch.
func oneFOneB(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		order := microBatches(s.MicroBatches, r)
		return inTurn(order, order, s.Ranks-1-r, none)
	})
}

// zeroBubbleH1 is ZB-H1 (Qi et al., "Zero Bubble Pipeline Parallelism", 2023): 1F1B whose gradients of weights wait, on rank r until
// r micro batches later, so that a rank sends the gradient of its input on before it computes what nobody waits for. Every rank
// keeps p micro batches, and idles for (p-1)(F+I-W). The first rank has whole backward passes: nobody waits for either half.
func zeroBubbleH1(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		order, delay := microBatches(s.MicroBatches, r), r
		if r == 0 {
			delay = none
		}
		return inTurn(order, order, s.Ranks-1-r, delay)
	})
}

// interleaved is interleaved 1F1B (Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
// Megatron-LM", 2021): rank r has the chunks r, r+p, r+2p and so on, and passes groups of at least p micro batches through one after
// the other. It idles for (p-1)(F+B), where F and B are those of a chunk, v of which make a rank's share of the model.
func interleaved(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		groups := max(1, s.MicroBatches/s.Ranks)
		var forward, backward []Action
		for g := range groups {
			from, to := portion(s.MicroBatches, groups, g), portion(s.MicroBatches, groups, g+1)
			for v := range s.Virtual {
				for m := from; m < to; m++ {
					forward = append(forward, Action{MicroBatch: m, Chunk: v*s.Ranks + r})
					backward = append(backward, Action{MicroBatch: m, Chunk: (s.Virtual-1-v)*s.Ranks + r})
				}
			}
		}
		return inTurn(forward, backward, (s.Virtual-1)*portion(s.MicroBatches, groups, 1)+2*(s.Ranks-1-r), none)
	})
}

// Turns is the schedule of one rank that has a forward pass beside each backward pass, of the micro batch after it: what either
// exchanges with tensor ranks is hidden behind the other. It keeps 2 micro batches.
func Turns(microBatches int) Schedule {
	list := []Action{{Kind: Forward}}
	for m := range microBatches {
		if m+1 < microBatches {
			list = append(list, Action{Kind: Forward, MicroBatch: m + 1, Overlapped: true})
		}
		list = append(list, Action{Kind: Backward, MicroBatch: m})
	}
	return Schedule{list}
}

// portion returns where part i of n items begins, cut in parts of which the first are the larger ones.
func portion(n, parts, i int) int { return (i*n + parts - 1) / parts }

// inTurn is a list of ahead forward passes, a forward and a backward pass in turn, and the backward passes that are left. With a
// delay of 0 or more the gradients of weights are apart, that many backward passes later; with none backward passes are whole.
func inTurn(forward, backward []Action, ahead, delay int) (list []Action) {
	ahead = min(ahead, len(forward))
	list = append(list, forward[:ahead]...)
	for i, b := range backward {
		if i+ahead < len(forward) {
			list = append(list, forward[i+ahead])
		}
		if delay == none {
			list = append(list, Action{Kind: Backward, MicroBatch: b.MicroBatch, Chunk: b.Chunk})
			continue
		}
		list = append(list, Action{Kind: BackwardInput, MicroBatch: b.MicroBatch, Chunk: b.Chunk})
		if i >= delay {
			w := backward[i-delay]
			list = append(list, Action{Kind: BackwardWeight, MicroBatch: w.MicroBatch, Chunk: w.Chunk})
		}
	}
	for _, w := range backward[max(0, len(backward)-max(0, delay)):] {
		list = append(list, Action{Kind: BackwardWeight, MicroBatch: w.MicroBatch, Chunk: w.Chunk})
	}
	return list
}

// eachRank makes a schedule of each rank's list.
func eachRank(s Shape, list func(rank int) []Action) Schedule {
	schedule := make(Schedule, s.Ranks)
	for r := range schedule {
		schedule[r] = list(r)
	}
	return schedule
}

// microBatches lists the forward passes of a chunk.
func microBatches(n, chunk int) []Action {
	list := make([]Action, n)
	for m := range list {
		list[m] = Action{MicroBatch: m, Chunk: chunk}
	}
	return list
}

// forwardOnly returns the forward passes of micro batches through chunks that are on the given ranks: a rank that has several to
// run takes that nearest to the end of the model.
func forwardOnly(home []int, ranks, microBatches int) Schedule {
	schedule := make(Schedule, ranks)
	done := make([]int, len(home)) // by chunk: micro batches
	for left := len(home) * microBatches; left > 0; {
		before := slices.Clone(done) // a rank does not see what others do at the same time
		busy := make([]bool, ranks)
		for c := len(home) - 1; c >= 0; c-- {
			m, r := before[c], home[c]
			if busy[r] || m == microBatches || c > 0 && before[c-1] == m {
				continue
			}
			schedule[r] = append(schedule[r], Action{MicroBatch: m, Chunk: c})
			busy[r] = true
			done[c]++
			left--
		}
	}
	return schedule
}
