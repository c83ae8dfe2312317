package data

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// A part is a Source cut into samples.
type part struct {
	source      Source
	number      int   // among the parts
	first, last int64 // the part's tokens are within [first, last) of the source
	tokens      int64 // how many of them are in samples, or between them
	sampler     sampler
	whole       bool // documents are packed whole
	n           int64
	shuffle     bool
	seed        uint64

	order permutation
	epoch int64 // that order belongs to, -1 before the first
}

// A sampler cuts samples from a Source.
type sampler interface {
	// sample fills r with sample j of an epoch.
	sample(j int64, r *row) error
	close() error
}

// A row is a sample as it is made: ids, labels and starts have s elements, tokens is room for s+1.
type row struct{ ids, labels, starts, tokens []int32 }

func newRow(s int) row {
	return row{make([]int32, s), make([]int32, s), make([]int32, s), make([]int32, s+1)}
}

// fill makes inputs and labels from position at on of the first n+1 tokens, which are those of one document as far as the
// caller knows.
func (r *row) fill(at, n int) {
	for i := range n {
		id, label := r.tokens[i], r.tokens[i+1]
		if id < 0 {
			id = ^id
		}
		if label < 0 {
			label = NoLabel
		}
		r.ids[at+i], r.labels[at+i], r.starts[at+i] = id, label, int32(at)
	}
}

// cut divides the part's tokens into samples.
func (p *part) cut(o Options, request int64) error {
	if o.Megatron != nil || o.packsWhole() {
		documents := p.source.Documents()
		kept := documents - int64(math.Round(o.ValidationSplit*float64(documents)))
		if o.Megatron != nil {
			kept = megatronSplit(documents, o.ValidationSplit)
		}
		first, last := int64(0), kept
		if o.HeldOut {
			first, last = kept, documents
		}
		p.first, p.last = tokenOf(p.source, first), tokenOf(p.source, last)
		if o.packsWhole() {
			return p.pack(o, first, last)
		}
		if !o.HeldOut {
			return p.cutMegatron(o, last, request)
		}
	} else {
		p.last = p.source.Tokens()
		cut := p.last - int64(math.Round(o.ValidationSplit*float64(p.last)))
		if o.HeldOut {
			p.first = cut
		} else {
			p.last = cut
		}
	}
	p.tokens = p.last - p.first
	p.n = max(p.tokens-1, 0) / int64(o.SequenceLength)
	if p.n == 0 {
		s := int64(o.SequenceLength)
		return fmt.Errorf("%w: %s has %s, a sample of sequence length %d needs %s; add data or use shorter sequences",
			ErrTooFewTokens, o.what(), count(p.tokens, "token"), s, group(s+1))
	}
	p.sampler = concat{p.source, p.first, int64(o.SequenceLength)}
	return nil
}

// tokenOf returns the first token of a document, or the number of tokens for the one after the last.
func tokenOf(s Source, document int64) int64 {
	if document == s.Documents() {
		return s.Tokens()
	}
	at, _ := s.Document(document)
	return at
}

// pack puts documents [first,last) into samples.
func (p *part) pack(o Options, first, last int64) (err error) {
	packs, err := openPacks(o, p.source, first, last)
	if err != nil {
		return err
	}
	p.sampler, p.whole, p.n, p.tokens = packs, true, packs.packs(), p.last-p.first
	if p.n == 0 {
		return errors.Join(packs.close(), fmt.Errorf("%w: no document of %s has two tokens; add data", ErrTooFewTokens, o.what()))
	}
	return nil
}

// what names the tokens that are used for a message.
func (o Options) what() string {
	if o.HeldOut {
		return "the held-out part of the data"
	}
	return "the data"
}

// packsWhole tells whether samples hold whole documents.
func (o Options) packsWhole() bool { return o.Packing == "best-fit" || o.Packing == "none" }

// sample fills r with sample j of the run among those of this part.
func (p *part) sample(j int64, r *row) error {
	epoch, k := j/p.n, j%p.n
	if p.shuffle {
		if epoch != p.epoch {
			p.order, p.epoch = newPermutation(p.seed, p.number, epoch, uint64(p.n)), epoch
		}
		k = int64(p.order.at(uint64(k)))
	}
	return p.sampler.sample(k, r)
}

// concat cuts joined documents every s tokens.
type concat struct {
	source        Source
	first, length int64
}

func (c concat) sample(j int64, r *row) error {
	if err := c.source.ReadTokens(r.tokens, c.first+j*c.length); err != nil {
		return err
	}
	r.fill(0, int(c.length))
	return nil
}

func (c concat) close() error { return nil }

// Summary says what there is and what a run of the given number of samples takes of it, such as "2 files, 1.4 MB, 1,400,002
// tokens; 10,937 samples of 128 tokens, shuffled; 2.00 epochs". The parts of a blend have a line each.
func (d *Dataset) Summary(samples int64) string {
	var lines []string
	for _, p := range d.parts {
		line := p.summary(d.length)
		if samples > 0 {
			line += fmt.Sprintf("; %.2f epochs", float64(d.order.share(p.number, samples))/float64(p.n))
		}
		if len(d.parts) > 1 && samples > 0 {
			line = fmt.Sprintf("%.1f %% of the samples: %s", 100*float64(d.order.share(p.number, samples))/float64(samples), line)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n           ")
}

// summary describes one part.
func (p *part) summary(length int64) string {
	var b strings.Builder
	b.WriteString(p.source.Summary())
	if p.tokens != p.source.Tokens() {
		fmt.Fprintf(&b, ", %s of them used", group(p.tokens))
	}
	fmt.Fprintf(&b, "; %s of %s", count(p.n, "sample"), count(length, "token"))
	if s, ok := p.sampler.(fmt.Stringer); ok {
		fmt.Fprintf(&b, ", %s", s)
	}
	if p.shuffle {
		b.WriteString(", shuffled")
	}
	return b.String()
}
