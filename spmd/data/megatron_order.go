package data

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"path/filepath"
)

// A MegatronOrder asks for the samples of Megatron-Core's GPTDataset (version 0.16), sample for sample, so that a loss curve
// can be compared with Megatron's line by line: with its document, sample and shuffle indices, drawn from the seed, over as many
// epochs as the run needs, and its blends. The held-out part is that of its split "1-f,f,0", by sequences.
type MegatronOrder struct {
	// Samples is how many the run takes: train_iters x global_batch_size there.
	Samples int64
}

// surplus is the part of its samples by which each data set of a blend is made larger than needed: Megatron-Core's
// mid_level_dataset_surplus.
const surplus = 0.005

// requests returns how many samples each part is asked for.
func (o Options) requests() []int64 {
	requests := make([]int64, len(o.Parts))
	if o.Megatron == nil {
		return requests
	}
	if o.Parts[0].Weight == 0 {
		requests[0] = o.Megatron.Samples
		return requests
	}
	for i, weight := range normalize(o.weights()) {
		needed := math.Ceil(float64(o.Megatron.Samples) * weight)
		requests[i] = int64(math.Ceil(needed * (1 + surplus)))
	}
	return requests
}

// weights returns the weights of the parts.
func (o Options) weights() []float64 {
	weights := make([]float64, len(o.Parts))
	for i, p := range o.Parts {
		weights[i] = p.Weight
	}
	return weights
}

// megatronSplit returns how many of n sequences are for training, as Python rounds them.
func megatronSplit(n int64, heldOut float64) int64 {
	split := normalize([]float64{1 - heldOut, heldOut, 0})
	return int64(math.RoundToEven(split[0] * float64(n)))
}

// megatronShape is what the indices of a part depend on, beside its documents and the seed.
type megatronShape struct {
	documents, tokens int64 // of an epoch
	length            int64
	epochs            int64
	samples           int64 // of all epochs
	separate          bool  // the last epoch is shuffled by itself
	withoutLast       int64 // samples before the last epoch, where it is separate
}

// newMegatronShape counts the epochs that a number of samples takes.
func newMegatronShape(documents, tokens, length, request int64) megatronShape {
	s := megatronShape{documents: documents, tokens: tokens, length: length, epochs: max(1, (request*length+1+tokens-1)/tokens)}
	s.samples = (s.epochs*tokens - 1) / length
	if s.epochs == 1 {
		return s
	}
	s.withoutLast = ((s.epochs-1)*tokens - 1) / length
	perEpoch := (tokens - 1) / length
	s.separate = request-s.withoutLast < int64(0.80*float64(perEpoch))
	return s
}

// String identifies the order among those of the same data and seed.
func (s megatronShape) String() string {
	return fmt.Sprintf("in Megatron-Core's order of %s, the last one apart: %t", count(s.epochs, "epoch"), s.separate)
}

// documentIndex returns the documents of all epochs, shuffled together but for a separate last epoch.
func (s megatronShape) documentIndex(random *mt19937) []int32 {
	index := make([]int32, s.epochs*s.documents)
	for i := range index {
		index[i] = int32(int64(i) % s.documents)
	}
	last := int64(len(index))
	if s.separate {
		last -= s.documents
	}
	shuffle(random, index[:last])
	shuffle(random, index[last:])
	return index
}

// sampleIndex returns, for each sample and for the end, the place in the document index where it begins and the token within
// that document, in pairs.
func sampleIndex[T int32 | int64](s megatronShape, documents []int32, length func(document int64) int64) []T {
	index := make([]T, 0, 2*(s.samples+1))
	at, offset := int64(0), int64(0)
	index = append(index, 0, 0)
	for range s.samples {
		remaining := s.length + 1
		for remaining != 0 {
			left := length(int64(documents[at])) - offset
			remaining -= left
			switch {
			case remaining <= 0: // the sample's last token is the next one's first
				offset += remaining + left - 1
				remaining = 0
			case at == int64(len(documents))-1:
				offset = length(int64(documents[at])) - 1
				remaining = 0
			default:
				at++
				offset = 0
			}
		}
		index = append(index, T(at), T(offset))
	}
	return index
}

// shuffleIndex returns the order of the samples.
func shuffleIndex[T uint32 | int64](s megatronShape, random *mt19937) []T {
	index := make([]T, s.samples)
	for i := range index {
		index[i] = T(i)
	}
	first := s.samples
	if s.separate {
		first = s.withoutLast
	}
	shuffle(random, index[:first])
	shuffle(random, index[first:])
	return index
}

// cutMegatron makes the samples of the first documents of a part.
func (p *part) cutMegatron(o Options, documents, request int64) error {
	p.tokens = p.last
	if p.tokens <= int64(o.SequenceLength) || documents > math.MaxInt32 {
		return fmt.Errorf("%w: %s has %s in %s, Megatron-Core's order of sequence length %d needs %s in fewer than 2^31 sequences; "+
			"add data or use shorter sequences", ErrTooFewTokens, o.what(), count(p.tokens, "token"), count(documents, "sequence"),
			o.SequenceLength, group(int64(o.SequenceLength)+1))
	}
	shape := newMegatronShape(documents, p.tokens, int64(o.SequenceLength), request)
	if shape.documents*shape.epochs > math.MaxInt32 {
		return fmt.Errorf("Megatron-Core's order of %d epochs of %d sequences has more than 2^31 of them; use another data.order", shape.epochs, documents)
	}
	m, err := openMegatronSamples(o, p.source, shape)
	if err != nil {
		return err
	}
	p.sampler, p.n, p.shuffle = m, shape.samples, false
	return nil
}

// megatronSamples are the samples of a part through mapped indices.
type megatronSamples struct {
	megatronShape
	source                    Source
	documents, samples, order *array
}

// openMegatronSamples maps the indices in o.Cache, which are made if they are not there.
func openMegatronSamples(o Options, source Source, s megatronShape) (*megatronSamples, error) {
	if o.Cache == "" {
		return nil, errors.New("Megatron-Core's order needs a directory for its indices")
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d %s %d %+v", storeVersion, source.Identity(), o.Seed, s))
	base := filepath.Join(o.Cache, "megatron-"+hex.EncodeToString(key[:8]))
	if _, err := readableSize(base + "-shuffle_index.npy"); err != nil {
		if err := s.build(base, uint32(o.Seed), source); err != nil {
			return nil, err
		}
	}
	m := &megatronSamples{megatronShape: s, source: source}
	var errs [3]error
	m.documents, errs[0] = openArray(base+"-document_index.npy", s.epochs*s.documents)
	m.samples, errs[1] = openArray(base+"-sample_index.npy", 2*(s.samples+1))
	m.order, errs[2] = openArray(base+"-shuffle_index.npy", s.samples)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// build writes the three indices, that of the order last.
func (s megatronShape) build(base string, seed uint32, source Source) error {
	lengths, longest := make([]int32, s.documents), int64(0)
	for i := range lengths {
		_, n := source.Document(int64(i))
		lengths[i], longest = int32(n), max(longest, n)
	}
	length := func(document int64) int64 { return int64(lengths[document]) }
	random := newMT19937(seed)
	documents := s.documentIndex(random)
	if err := writeArray(base+"-document_index.npy", documents, len(documents)); err != nil {
		return err
	}
	path, rows := base+"-sample_index.npy", int(s.samples)+1
	var err error
	if fitsInt32(max(int64(len(documents)), longest)) {
		err = writeArray(path, sampleIndex[int32](s, documents, length), rows, 2)
	} else {
		err = writeArray(path, sampleIndex[int64](s, documents, length), rows, 2)
	}
	if err != nil {
		return err
	}
	path = base + "-shuffle_index.npy"
	if s.samples < math.MaxUint32-1 {
		return writeArray(path, shuffleIndex[uint32](s, random), int(s.samples))
	}
	return writeArray(path, shuffleIndex[int64](s, random), int(s.samples))
}

// sample implements sampler.
func (m *megatronSamples) sample(j int64, r *row) error {
	err := guardMapping(m.samples.path, func() error {
		k := m.order.at(j)
		at, offset := m.samples.at(2*k), m.samples.at(2*k+1)
		for tokens := r.tokens; len(tokens) > 0; at, offset = at+1, 0 {
			first, length := m.source.Document(m.documents.at(at))
			n := min(length-offset, int64(len(tokens)))
			if err := m.source.ReadTokens(tokens[:n], first+offset); err != nil {
				return err
			}
			tokens = tokens[n:]
		}
		return nil
	})
	if err == nil {
		r.fill(0, int(m.length))
	}
	return err
}

func (m *megatronSamples) close() error {
	return errors.Join(m.documents.close(), m.samples.close(), m.order.close())
}

// A megatronBlend is the order of Megatron-Core's BlendedDataset, through mapped indices.
type megatronBlend struct{ parts, samples *array }

// newMegatronBlend maps the indices of a blend in o.Cache, which are made if they are not there.
func newMegatronBlend(o Options) (*megatronBlend, error) {
	weights := normalize(o.weights())
	size := int64(0)
	for _, weight := range weights {
		size += int64(math.Ceil(float64(o.Megatron.Samples) * weight))
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d %v %d", storeVersion, weights, size))
	base := filepath.Join(o.Cache, "blend-"+hex.EncodeToString(key[:8]))
	if _, err := readableSize(base + "-dataset_sample_index.npy"); err != nil {
		parts, samples := make([]int16, size), make([]int64, size)
		choose := newChooser(weights)
		for i := range parts {
			part, before := choose.next()
			parts[i], samples[i] = int16(part), before
		}
		if err := writeArray(base+"-dataset_index.npy", parts, len(parts)); err != nil {
			return nil, err
		}
		if err := writeArray(base+"-dataset_sample_index.npy", samples, len(samples)); err != nil {
			return nil, err
		}
	}
	b := &megatronBlend{}
	var errs [2]error
	b.parts, errs[0] = openArray(base+"-dataset_index.npy", size)
	b.samples, errs[1] = openArray(base+"-dataset_sample_index.npy", size)
	return b, errors.Join(errs[:]...)
}

func (b *megatronBlend) place(i int64) (int, int64) { return int(b.parts.at(i)), b.samples.at(i) }

func (b *megatronBlend) share(part int, n int64) int64 {
	share := int64(0)
	for i := range n {
		if b.parts.at(i) == int64(part) {
			share++
		}
	}
	return share
}

func (b *megatronBlend) close() error { return errors.Join(b.parts.close(), b.samples.close()) }
