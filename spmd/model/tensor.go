package model

import (
	"lockstep/kernels"
	"lockstep/kernels/device"
)

// Outside of the parts of layers, tensor ranks have the hidden state of all tokens, all the same, or with sequence parallelism
// each that of some tokens, which it holds. The parts need all tokens, and give a part of a sum:
//
//	                  on all tokens           with sequence parallelism
//	before a part     -                       all-gather of what each holds
//	after it          all-reduce              reduce-scatter to what each holds
//
// and so the gradients on their way back. Both sides move the same bytes. Sums have the order of ranks' aligned tree, so that
// all ranks get the same bits, every time.

// spread reports whether each tensor rank holds some of the tokens.
func (c *Context) spread() bool { return c.Size.Shards > 1 }

// held returns the rows of x [B*T,..] that are of the tokens that this rank holds.
func (c *Context) held(x kernels.Tensor) kernels.Tensor {
	if !c.spread() {
		return x
	}
	n, me := c.Size.Held(), c.Tensor.Rank()
	return x.Narrow(0, me*n, (me+1)*n)
}

// await makes the stream wait for an exchange that has begun. Another pass may go on first.
func (c *Context) await(exchanged device.Event) {
	if c.pause != nil {
		c.pause()
	}
	c.Stream.Wait(exchanged)
}

// gather fills x [B*T,H] where each rank has the rows that it holds.
func (c *Context) gather(x kernels.Tensor) {
	if c.spread() {
		c.await(c.Tensor.AllGather(x.Region(), nil, c.Stream.Record()))
	}
}

// whole returns x for all tokens, in the type of activations: x itself where buffer is none, else what it gathers there, in
// [B*T,H], of the tokens that this rank holds.
func (c *Context) whole(buffer, x kernels.Tensor) kernels.Tensor {
	if buffer.IsZero() {
		return x
	}
	c.move(c.held(buffer), x)
	c.gather(buffer)
	return buffer
}

// move computes y = x, in the type of y.
func (c *Context) move(y, x kernels.Tensor) {
	if y.DType == x.DType {
		c.Kernels.Copy(c.Stream, y, x)
	} else {
		c.Kernels.Cast(c.Stream, y, x)
	}
}

// reduce replaces held(x), of x [B*T,H], by the sum over the tensor ranks. The other rows are used up.
func (c *Context) reduce(x kernels.Tensor) {
	switch {
	case c.Tensor == nil:
	case c.spread():
		c.await(c.Tensor.ReduceScatter(x.Region(), nil, c.Sum, c.Stream.Record()))
	default:
		c.await(c.Tensor.AllReduce(x.Region(), c.Sum, c.Stream.Record()))
	}
}

// addend returns where this rank's part of a sum goes that is to be in x in the end: x itself where it is alone, else buffer
// [B*T,H]. total then leaves the sum in x.
func (c *Context) addend(x, buffer kernels.Tensor) kernels.Tensor {
	if c.Tensor == nil {
		return x
	}
	return buffer
}

func (c *Context) total(x, buffer kernels.Tensor) {
	if c.Tensor != nil {
		c.reduce(buffer)
		c.move(x, c.held(buffer))
	}
}

// exchanged places an activation [B*T,H] that tensor ranks exchange.
func (m *Memory) exchanged(size Size, hidden int) kernels.Tensor {
	return m.activation(m.Exchanged, size.Tokens(), hidden)
}

// gathered places a buffer that whole needs for a tensor of a type: none where that is what activations have and no rank holds a
// part of the tokens.
func (m *Memory) gathered(of device.DType, size Size, hidden int) kernels.Tensor {
	switch {
	case size.Shards > 1:
		return m.exchanged(size, hidden)
	case of != m.DType:
		return m.activation(m.Scratch, size.Tokens(), hidden)
	}
	return kernels.Tensor{}
}
