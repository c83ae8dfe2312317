package model

import "iter"

// Together runs the Forward of one pass and the Backward of another. The results are those of the one after the other.
//
// In one context it is a layer of the one and a layer of the other in turn. In two, each with a stream of its own, the passes
// take turns within layers too: whenever the one has begun to exchange something with other ranks, the other computes until it
// does.
func Together(forward, backward *Passage, of, ob *Context) {
	if of == ob {
		layersInTurn(of, forward, backward)
		return
	}
	next, stop := iter.Pull(func(yield func(struct{}) bool) {
		ob.pause = func() { yield(struct{}{}) }
		backward.Backward(ob)
	})
	defer stop()
	of.pause = func() { next() }
	forward.Forward(of)
	for more := true; more; {
		_, more = next()
	}
	of.pause, ob.pause = nil, nil
}

func layersInTurn(x *Context, forward, backward *Passage) {
	forward.beginForward(x)
	backward.beginBackward(x)
	next := len(backward.Chunk.layers) - 1
	for i := range max(len(forward.Chunk.layers), len(backward.Chunk.layers)) {
		if i < len(forward.Chunk.layers) {
			forward.forwardLayer(x, i)
		}
		if next-i >= backward.Chunk.lowest {
			backward.backwardLayer(x, next-i)
		}
	}
}
