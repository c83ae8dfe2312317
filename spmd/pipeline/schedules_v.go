package pipeline

// Schedules of two chunks on each rank in the form of a V: rank r has the chunks r and 2p-1-r, so that the first rank has both ends of
// the model and the last the chunks between which nothing is sent.

// zeroBubbleV is ZB-V (Qi et al., "Pipeline Parallelism with Controllable Memory", 2024). Where F, I and W are equal, a rank
// does not idle between its first action and its last. It keeps 2p chunks' micro batches, which are as much memory as 1F1B's p of
// whole ranks. With fewer than 2p-1 micro batches it is the schedule of that many, from which those that do not exist are left out.
func zeroBubbleV(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		p, down, up := s.Ranks, r, 2*s.Ranks-1-r
		b := builder{micro: max(2*p-1, s.MicroBatches)}
		for range 2*(p-r) - 1 {
			b.add(Forward, down)
		}
		for range r {
			b.add(Forward, up)
			b.add(Forward, down)
		}
		for range p - r {
			b.add(Forward, up)
			b.add(BackwardInput, up)
			b.add(BackwardWeight, up)
		}
		for b.has(Forward, up) {
			if b.has(Forward, down) {
				b.add(Forward, down)
			}
			b.add(BackwardInput, down)
			b.add(BackwardWeight, down)
			b.add(Forward, up)
			b.add(BackwardInput, up)
			b.add(BackwardWeight, up)
		}
		for range r {
			b.add(BackwardInput, down)
			b.add(BackwardInput, up)
		}
		for range p - r {
			b.add(BackwardInput, down)
			b.add(BackwardWeight, down)
		}
		for b.has(BackwardWeight, up) {
			b.add(BackwardWeight, up)
		}
		for b.has(BackwardWeight, down) {
			b.add(BackwardWeight, down)
		}
		return b.upTo(s.MicroBatches)
	})
}

// dualPipeV is the half of DualPipe (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.1) that DualPipeV folds into a V
// (https://github.com/deepseek-ai/DualPipe): most forward passes run together with a backward pass of the other chunk, which hides
// the exchange of experts' tokens. It needs 2p micro batches.
func dualPipeV(s Shape) Schedule {
	return eachRank(s, func(r int) []Action {
		p, down, up := s.Ranks, r, 2*s.Ranks-1-r
		b := builder{micro: s.MicroBatches}
		for range 2 * (p - r - 1) {
			b.add(Forward, down)
		}
		for range r + 1 {
			b.add(Forward, down)
			b.add(Forward, up)
		}
		for range p - r - 1 {
			b.addInput(up)
			b.addDue()
			b.add(Forward, up)
		}
		for i := range s.MicroBatches - 2*p + r + 1 {
			if i == 0 && r == p-1 { // apart, they leave less of a bubble
				b.add(Forward, down)
				b.add(Backward, up)
			} else {
				b.addPair(down, up)
			}
			b.addPair(up, down)
		}
		for range p - r - 1 {
			b.add(Backward, up)
			b.addPair(up, down)
		}
		half := (r + 1) / 2
		for i := range r + 1 { // the second half with gradients of weights apart
			b.addBackward(up, i > half || i == half && r%2 == 1)
			b.addBackward(down, i >= half)
		}
		for range p - r - 1 {
			b.addDue()
			b.addInput(down)
		}
		for range r + 1 {
			b.addDue()
		}
		return b.actions
	})
}

// A builder writes a list of actions. Each pass through a chunk takes the micro batches in order, so that an action needs only its
// kind and its chunk.
type builder struct {
	actions []Action
	micro   int                 // micro batches
	next    map[kindOnChunk]int // the next micro batch, 0 where there is none
	due     []int               // chunks of gradients of weights that are to come
}

type kindOnChunk struct {
	kind  Kind
	chunk int
}

// has reports whether a micro batch is left.
func (b *builder) has(k Kind, chunk int) bool { return b.next[kindOnChunk{k, chunk}] < b.micro }

// add adds the next pass.
func (b *builder) add(k Kind, chunk int) {
	if b.next == nil {
		b.next = map[kindOnChunk]int{}
	}
	m := b.next[kindOnChunk{k, chunk}]
	if k == Backward {
		m = b.next[kindOnChunk{BackwardInput, chunk}]
		b.next[kindOnChunk{BackwardInput, chunk}]++
		b.next[kindOnChunk{BackwardWeight, chunk}]++
	} else {
		b.next[kindOnChunk{k, chunk}]++
	}
	b.actions = append(b.actions, Action{Kind: k, MicroBatch: m, Chunk: chunk})
}

// addPair adds a forward pass that runs together with a backward pass.
func (b *builder) addPair(forward, backward int) {
	b.add(Forward, forward)
	b.actions[len(b.actions)-1].Overlapped = true
	b.add(Backward, backward)
}

// addBackward adds a backward pass, with the gradient of the weights left for later if it is split.
func (b *builder) addBackward(chunk int, split bool) {
	if split {
		b.addInput(chunk)
	} else {
		b.add(Backward, chunk)
	}
}

// addInput adds a gradient of the input, and notes that that of the weights is due.
func (b *builder) addInput(chunk int) {
	b.add(BackwardInput, chunk)
	b.due = append(b.due, chunk)
}

// addDue adds the gradient of weights that has been due for the longest time.
func (b *builder) addDue() {
	if len(b.due) > 0 {
		b.add(BackwardWeight, b.due[0])
		b.due = b.due[1:]
	}
}

// upTo returns the actions of the first micro batches.
func (b *builder) upTo(microBatches int) (list []Action) {
	for _, a := range b.actions {
		if a.MicroBatch < microBatches {
			list = append(list, a)
		}
	}
	return list
}
