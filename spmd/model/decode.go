package model

import (
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// A Decoder runs a bound model one piece of text at a time and keeps the keys and values of what it has seen, so that each
// new token costs one pass of one token.
type Decoder struct {
	model     *Model
	device    kernels.Device
	stream    device.Stream
	storage   *device.Storage
	cos, sin  kernels.Tensor // [positions,D]
	caches    []cache        // by block
	prompt    decodePass
	next      decodePass
	positions int
	at        int // tokens seen
}

// A cache holds the keys and values of one block: [1,positions,heads,dimension] each.
type cache struct{ keys, values kernels.Tensor }

// attend adds the keys and values of the tokens from position at on to the cache, and computes the attended values o of
// their queries with all that are in it.
func (kv cache) attend(c *Context, r *coreRecord, o kernels.Tensor, x headTensors, at int, scale float64) {
	end := at + c.Size.Sequence
	c.Kernels.Copy(c.Stream, kv.keys.Narrow(1, at, end), x.k)
	c.Kernels.Copy(c.Stream, kv.values.Narrow(1, at, end), x.v)
	c.Kernels.Attention(c.Stream, o, r.stats, x.q, kv.keys.Narrow(1, 0, end), kv.values.Narrow(1, 0, end),
		kernels.AttentionOptions{Scale: scale, Causal: true})
}

// A decodePass is the memory for one pass of a fixed number of tokens.
type decodePass struct {
	size        Size
	ids         kernels.Tensor // [T] Int32
	records     []Record       // by layer
	activations [2]kernels.Tensor
	logits      kernels.Tensor // [1,V] of the last token
}

// NewDecoder allocates what it takes to read a prompt of the given number of tokens and to go on to the given number of
// positions in all. Close frees it.
func NewDecoder(m *Model, d kernels.Device, s device.Stream, prompt, positions int) (*Decoder, error) {
	if prompt < 1 || positions < prompt {
		return nil, fmt.Errorf("model: a prompt of %d tokens does not fit %d positions", prompt, positions)
	}
	dec := &Decoder{model: m, device: d, stream: s, positions: positions}
	var measure kernels.Arena
	dec.place(&measure, prompt)
	storage, err := d.Alloc(measure.Bytes())
	if err != nil {
		return nil, fmt.Errorf("model: memory for decoding: %w", err)
	}
	arena := kernels.NewArena(storage)
	dec.storage = storage
	dec.place(arena, prompt)
	WriteTables(m.Config, d, s, dec.cos, dec.sin, Size{Sequence: dec.positions}.Positions())
	return dec, s.Synchronize()
}

// place lays everything out in a.
func (dec *Decoder) place(a *kernels.Arena, prompt int) {
	c := dec.model.Config
	dec.caches = nil
	for _, l := range dec.model.Layers {
		if b, ok := l.(*block); ok {
			dec.caches = append(dec.caches, b.attention.newCache(a, dec.positions))
		}
	}
	dec.prompt = dec.newPass(a, Size{Batch: 1, Sequence: prompt})
	dec.next = dec.newPass(a, Size{Batch: 1, Sequence: 1})
	dec.cos, dec.sin = PlaceTables(c, a, dec.positions)
}

// newPass places a pass. Nothing of it outlives the pass, so all layers share their records' memory.
func (dec *Decoder) newPass(a *kernels.Arena, size Size) decodePass {
	c := dec.model.Config
	p := decodePass{size: size, ids: a.Tensor(device.Int32, size.Tokens()), logits: a.Tensor(device.Float32, 1, c.VocabSize)}
	p.activations = [2]kernels.Tensor{a.Tensor(device.Float32, size.Tokens(), c.HiddenSize), a.Tensor(device.Float32, size.Tokens(), c.HiddenSize)}
	mark := a.Mark()
	for _, l := range dec.model.Layers {
		a.Release(mark)
		p.records = append(p.records, l.NewRecord(dec.device, size, &Memory{DType: device.Float32, Residual: device.Float32, Saved: a, Delayed: a, Scratch: a, Exchanged: a}))
	}
	a.Release(mark)
	// The layers' records overlap, so the next tensor must lie beyond the largest of them.
	a.Reserve()
	return p
}

// Prompt reads the first tokens, as many as NewDecoder was told, and returns the logits [V] of what follows.
func (dec *Decoder) Prompt(ids []int32) ([]float32, error) { return dec.run(&dec.prompt, ids) }

// Next reads one more token and returns the logits [V] of what follows.
func (dec *Decoder) Next(id int32) ([]float32, error) { return dec.run(&dec.next, []int32{id}) }

// run makes a pass over ids at the current position.
func (dec *Decoder) run(p *decodePass, ids []int32) ([]float32, error) {
	if len(ids) != p.size.Tokens() || dec.at+len(ids) > dec.positions {
		return nil, fmt.Errorf("model: %d tokens at position %d do not fit a pass of %d tokens and %d positions", len(ids), dec.at, p.size.Tokens(), dec.positions)
	}
	end := dec.at + len(ids)
	c := &Context{Kernels: dec.device, Stream: dec.stream, Size: p.size, Cos: dec.cos.Narrow(0, dec.at, end), Sin: dec.sin.Narrow(0, dec.at, end)}
	dec.device.Write(dec.stream, p.ids.Region(), device.BytesOf(ids))
	in, out := p.activations[0], p.activations[1]
	for i, layer := range dec.model.Layers {
		switch l := layer.(type) {
		case *embedding:
			l.Forward(c, p.records[i], &MicroBatch{IDs: p.ids}, kernels.Tensor{}, out)
		case *block:
			l.decode(c, p.records[i].(*blockRecord), dec.caches[i-1], dec.at, in, out)
		case *head:
			l.logits(c, p.records[i].(*headRecord), in, p.logits)
		}
		in, out = out, in
	}
	dec.at = end
	logits := make([]float32, dec.model.Config.VocabSize)
	return logits, dec.device.Read(dec.stream, device.BytesOf(logits), p.logits.Region())
}

// Close frees the decoder's memory.
func (dec *Decoder) Close() error { return dec.storage.Free() }

// decode computes out from in at position at, with the keys and values of all positions before in the cache.
func (b *block) decode(c *Context, r *blockRecord, kv cache, at int, in, out kernels.Tensor) {
	r.x = in
	b.inputNorm.forward(c, r.normed, r.rstd1, in)
	b.attention.decode(c, r.attention, kv, at, r.projected, r.normed)
	b.finish(c, r, &MicroBatch{}, out)
}

// logits computes the logits [1,V] of the last token of in [T,H].
func (h *head) logits(c *Context, r *headRecord, in, logits kernels.Tensor) {
	h.norm.forward(c, r.normed, r.rstd, in)
	h.output.forward(c, nil, logits, r.normed.Narrow(0, c.Size.Tokens()-1, c.Size.Tokens()))
}
