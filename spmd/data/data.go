// Package data turns stored tokens into the batches of a run.
//
// A Source is a store of tokens in one fixed order: the bytes of text files, or the .bin/.idx pairs of Megatron-LM. A
// Dataset cuts a Source into samples and puts them into the order in which the run takes them. Nothing here has a
// position that moves: which tokens are in a batch is a function of (seed, step, micro batch) alone, so a resumed run
// needs no loader state, and every layout of ranks trains on the same batches in the same order.
//
// With sequence length s, an epoch of T tokens has n = (T-1)/s samples. Sample j of an epoch is the s+1 tokens from
// token j*s on: inputs are all but the last, labels all but the first, and the last label is the next sample's first
// input, so that each token but the first is predicted once. Sample i of the run is sample i mod n of epoch i/n; when
// the run shuffles, each epoch has a permutation of its own.
package data

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
)

// A Source is a store of tokens in a fixed order.
type Source interface {
	// Tokens returns how many there are.
	Tokens() int64
	// ReadTokens fills dst with the tokens from number at on. It is called by one goroutine at a time.
	ReadTokens(dst []int32, at int64) error
	// Fingerprint identifies the content, wherever the files lie: two sources with the same fingerprint hold the same
	// tokens. It may read all of the content, and may run beside ReadTokens.
	Fingerprint() (string, error)
	// Summary says in a few words what the source holds, such as "1,523 files, 41.2 MB, 41,234,567 tokens".
	Summary() string
	// Close releases the files. The source is not used afterwards.
	Close() error
}

// ErrTooFewTokens is wrapped by the error of a data set that holds less than one sample.
var ErrTooFewTokens = errors.New("too few tokens for one sample")

// Options say where the tokens are and how they become samples.
type Options struct {
	// Format is "text" or "megatron".
	Format string
	// Paths are files, directories and globs (with ** for any number of directories) for text, prefixes of .bin/.idx
	// pairs, joined in this order, for megatron; at least one. Relative ones are relative to the working directory.
	Paths []string
	// Exclude are paths like Paths whose files are left out: the validation data, which training must not see.
	Exclude []string
	// EOD is the end-of-document token that follows each file of text: tokenizer.EndOfDocument for the byte tokenizer, and no
	// default, as 0 is a token too. In megatron files the documents carry theirs.
	EOD int32
	// VocabSize is the number of ids of the model, 0 for no limit. A token beyond it is an error.
	VocabSize int
	// Goroot returns what a leading $GOROOT in a path of text stands for. It is called only when there is one; nil
	// refuses $GOROOT.
	Goroot func() (string, error)

	// SequenceLength is s, the number of inputs and of labels in a sample; at least 1.
	SequenceLength int
	// Shuffle gives each epoch a permutation of its own, drawn from Seed. Otherwise samples come in the order of the
	// files.
	Shuffle bool
	Seed    uint64
	// ValidationSplit is the fraction of the tokens, at their end, that is held out for validation, in [0, 1):
	// of T tokens the last round(ValidationSplit*T).
	ValidationSplit float64
	// HeldOut selects the tokens that are held out, in place of all the others.
	HeldOut bool
}

// A Dataset is a Source cut into samples. It is safe for concurrent use; readers take turns.
type Dataset struct {
	source      Source
	first, last int64 // the data set's tokens are [first, last) of the source
	length      int64 // s
	samples     int64 // n
	shuffle     bool
	seed        uint64

	mu    sync.Mutex // guards what follows and source.ReadTokens
	order permutation
	epoch int64 // that order belongs to, -1 before the first
	row   []int32
}

// Open opens the files of o. Every error names the path or the option at fault; a set of less than one sample is
// ErrTooFewTokens.
func Open(o Options) (*Dataset, error) {
	if len(o.Paths) == 0 {
		return nil, errors.New("no data paths are given")
	}
	var source Source
	var err error
	switch o.Format {
	case "text":
		source, err = openText(o)
	case "megatron":
		source, err = openMegatron(o)
	default:
		err = fmt.Errorf("data format %q is not known; use \"text\" or \"megatron\"", o.Format)
	}
	if err != nil {
		return nil, err
	}
	d, err := New(source, o)
	if err != nil {
		return nil, errors.Join(err, source.Close())
	}
	return d, nil
}

// New cuts source into samples by the second part of o, from SequenceLength on. The data set owns the source from then
// on and closes it.
func New(source Source, o Options) (*Dataset, error) {
	if o.SequenceLength < 1 {
		return nil, fmt.Errorf("sequence length %d; use at least 1", o.SequenceLength)
	}
	if !(o.ValidationSplit >= 0 && o.ValidationSplit < 1) {
		return nil, fmt.Errorf("validation split %v; use a fraction from 0 to below 1", o.ValidationSplit)
	}
	tokens := source.Tokens()
	cut := tokens - int64(math.Round(o.ValidationSplit*float64(tokens)))
	d := &Dataset{
		source: source, last: cut, length: int64(o.SequenceLength), shuffle: o.Shuffle, seed: o.Seed,
		epoch: -1, row: make([]int32, o.SequenceLength+1),
	}
	part := "the data"
	if o.HeldOut {
		part, d.first, d.last = "the held-out part of the data", cut, tokens
	}
	d.samples = max(d.last-d.first-1, 0) / d.length
	if d.samples == 0 {
		return nil, fmt.Errorf("%w: %s has %s, a sample of sequence length %d needs %s; add data or use shorter sequences",
			ErrTooFewTokens, part, count(d.last-d.first, "token"), d.length, group(d.length+1))
	}
	return d, nil
}

// Samples returns n, the number of samples in an epoch.
func (d *Dataset) Samples() int64 { return d.samples }

// Tokens returns how many tokens the samples are cut from.
func (d *Dataset) Tokens() int64 { return d.last - d.first }

// Fingerprint identifies the tokens that the samples are cut from, wherever the files lie. It may read all of them.
func (d *Dataset) Fingerprint() (string, error) {
	f, err := d.source.Fingerprint()
	if err != nil || d.first == 0 && d.last == d.source.Tokens() {
		return f, err
	}
	return fmt.Sprintf("%s[%d:%d]", f, d.first, d.last), nil
}

// Summary says what there is, such as "2 files, 1.4 MB, 1,400,002 tokens; 10,937 samples of 128 tokens, shuffled".
func (d *Dataset) Summary() string {
	var b strings.Builder
	b.WriteString(d.source.Summary())
	if d.Tokens() != d.source.Tokens() {
		fmt.Fprintf(&b, ", %s of them used", group(d.Tokens()))
	}
	fmt.Fprintf(&b, "; %s of %s", count(d.samples, "sample"), count(d.length, "token"))
	if d.shuffle {
		b.WriteString(", shuffled")
	}
	return b.String()
}

// sample fills tokens, of length s+1, with sample i of the run, i >= 0. The lock is held.
func (d *Dataset) sample(i int64, tokens []int32) error {
	if i < 0 || int64(len(tokens)) != d.length+1 {
		return fmt.Errorf("sample %d into %d tokens: samples count from 0 and have %d tokens", i, len(tokens), d.length+1)
	}
	epoch, j := i/d.samples, i%d.samples
	if d.shuffle {
		if epoch != d.epoch {
			d.order, d.epoch = newPermutation(d.seed, epoch, uint64(d.samples)), epoch
		}
		j = int64(d.order.at(uint64(j)))
	}
	if err := d.source.ReadTokens(tokens, d.first+j*d.length); err != nil {
		return fmt.Errorf("reading sample %d: %w", i, err)
	}
	return nil
}

// Batch fills ids and labels, both [b,s] row by row, with micro batch micro, from 0, of step, from 0. A step of
// microBatches micro batches takes samples step*microBatches*b .. (step+1)*microBatches*b-1 of the run, in order; row r
// of micro batch m is the (m*b+r)-th of them, whichever rank asks for it. labels[r,t] is the token after ids[r,t].
func (d *Dataset) Batch(step, micro, microBatches int, ids, labels []int32) error {
	s := int(d.length)
	if len(ids) == 0 || len(ids)%s != 0 || len(labels) != len(ids) {
		return fmt.Errorf("a batch of %d ids and %d labels: both must hold whole rows of %d", len(ids), len(labels), s)
	}
	if step < 0 || micro < 0 || micro >= microBatches {
		return fmt.Errorf("micro batch %d of %d in step %d: both count from 0", micro, microBatches, step)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rows := len(ids) / s
	first := (int64(step)*int64(microBatches) + int64(micro)) * int64(rows)
	for r := range rows {
		if err := d.sample(first+int64(r), d.row); err != nil {
			return err
		}
		copy(ids[r*s:(r+1)*s], d.row[:s])
		copy(labels[r*s:(r+1)*s], d.row[1:])
	}
	return nil
}

// Inputs hands visit the inputs of each sample of a step of the given number of samples, in order. It reads the whole step,
// so that every rank sees the same without asking the others. visit must not keep the slice, nor use the data set.
func (d *Dataset) Inputs(step, samples int, visit func(ids []int32) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range int64(samples) {
		if err := d.sample(int64(step)*int64(samples)+i, d.row); err != nil {
			return err
		}
		if err := visit(d.row[:d.length]); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the source.
func (d *Dataset) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.source.Close()
}

// checkRange refuses reads beyond the ends of a source.
func checkRange(dst []int32, at, tokens int64) error {
	if at < 0 || at > tokens-int64(len(dst)) {
		return fmt.Errorf("tokens %d to %d of a store that has %d", at, at+int64(len(dst)), tokens)
	}
	return nil
}

// count writes a number with its noun, such as "1 file" and "1,523 files".
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return group(n) + " " + noun + "s"
}

// group writes n >= 0 with a comma between groups of three digits.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// megabytes writes a size as "41.2 MB", of 10^6 bytes.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
