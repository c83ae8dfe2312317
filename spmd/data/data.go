// Package data turns stored tokens into the batches of a run.
//
// A Source is a store of tokens in one fixed order: the bytes of text files, the .bin/.idx pairs of Megatron-LM, or pairs that
// Prepare has made of text, JSON lines, Parquet or conversations. A Dataset cuts one or several Sources into samples and puts
// them into the order in which the run takes them. Nothing here has a position that moves: which tokens are in a batch is a
// function of (seed, step, micro batch) alone, so a resumed run needs no loader state, and every layout of ranks trains on the
// same batches in the same order.
//
// With sequence length s, a sample is s inputs, and a label for each: the token that follows it, or NoLabel. Samples are cut
// from a Source in one of three ways, see Options.Packing. With "concat", an epoch of T tokens has n = (T-1)/s samples. Sample
// j of an epoch is the s+1 tokens from token j*s on: inputs are all but the last, labels all but the first, and the last label
// is the next sample's first input, so that each token but the first is predicted once. Sample i of the run is sample i mod n
// of epoch i/n; when the run shuffles, each epoch has a permutation of its own.
package data

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"lockstep/spmd/data/tokenizer"
)

// A Source is a store of tokens in a fixed order.
type Source interface {
	// Tokens returns how many there are.
	Tokens() int64
	// ReadTokens fills dst with the tokens from number at on. It is called by one goroutine at a time. A token that is not
	// to be predicted is the complement of its id.
	ReadTokens(dst []int32, at int64) error
	// Documents returns how many documents the tokens make, and Document the first token and the length of one.
	Documents() int64
	Document(i int64) (at, length int64)
	// Identity tells the files from others by their names, sizes and times of change, without reading them.
	Identity() string
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

// A Part is a component of a data set.
type Part struct {
	// Weight is the part's share of the samples, in proportion to the weights of the others; 0 in a set that is not blended,
	// whose parts follow each other.
	Weight float64
	// Paths are files, directories and globs (with ** for any number of directories); for megatron prefixes of .bin/.idx
	// pairs, joined in this order. At least one. Relative ones are relative to the working directory.
	Paths []string
}

// Options say where the tokens are and how they become samples.
type Options struct {
	// Format is "text", "jsonl", "parquet", "chat" or "megatron".
	Format string
	// Parts are what the data set consists of, most often one.
	Parts []Part
	// Exclude are paths like those of Parts whose files are left out: the validation data, which training must not see.
	Exclude []string
	// TextKey is the key of JSON objects, or the column of Parquet files, that has the text.
	TextKey string
	// Tokenizer makes the tokens of text; nil is the byte tokenizer. It is not used for megatron.
	Tokenizer tokenizer.Tokenizer
	// Chat turns conversations into tokens.
	Chat *Chat
	// EOD is the end-of-document token that follows each document of text, JSON lines and Parquet, and tells documents apart
	// when they are joined; -1 for none. In megatron files the documents carry theirs.
	EOD int32
	// VocabSize is the number of ids of the model, 0 for no limit. A token beyond it is an error.
	VocabSize int
	// Goroot returns what a leading $GOROOT in a path stands for. It is called only when there is one; nil refuses $GOROOT.
	Goroot func() (string, error)
	// Cache is the directory where Prepare keeps what it makes.
	Cache string

	// SequenceLength is s, the number of inputs and of labels in a sample; at least 1.
	SequenceLength int
	// Packing says how documents make samples. "concat" or "": all are joined and cut every s tokens. "best-fit": whole
	// documents share a sample, each put into the fullest one that has room for it. "none": a document per sample.
	Packing string
	// Overlong says what packing whole documents does with one of more than s+1 tokens: "truncate" or "split".
	Overlong string
	// EODMaskLoss leaves inputs that are EOD without a label.
	EODMaskLoss bool
	// Shuffle gives each epoch a permutation of its own, drawn from Seed. Otherwise samples come in the order of the
	// files.
	Shuffle bool
	Seed    uint64
	// Megatron, if not nil, takes the samples of parts of one prefix each in the order of Megatron-Core's GPTDataset.
	Megatron *MegatronOrder
	// ValidationSplit is the fraction of each part, at its end, that is held out for validation, in [0, 1): of T tokens the
	// last round(ValidationSplit*T), of D documents where they are packed whole or taken in Megatron's order.
	ValidationSplit float64
	// HeldOut selects what is held out, in place of all the rest.
	HeldOut bool
}

// A Dataset is one or several Sources cut into samples. It is safe for concurrent use; readers take turns.
type Dataset struct {
	parts   []*part
	order   sampleOrder
	length  int64 // s
	eod     int32 // -1 where documents are not told apart by it
	maskEOD bool
	masked  bool // some tokens have no label
	mu      sync.Mutex
	cache   string
	row     row // guarded by mu, as is reading
}

// Rows are samples, [b,s] row by row.
type Rows struct {
	// IDs are the inputs, Labels the tokens after them, NoLabel or Padding.
	IDs, Labels []int32
	// Starts are the indices in the row of the first token of each input's document, which never decrease along a row.
	// Positions are the inputs' positions in their documents, from 0. Both may be nil.
	Starts, Positions []int32
}

// Open opens the files of o. Every error names the path or the option at fault; a set of less than one sample is
// ErrTooFewTokens. What Prepare makes must be there.
func Open(o Options) (*Dataset, error) {
	if len(o.Parts) == 0 {
		return nil, errors.New("no data paths are given")
	}
	var sources []Source
	closeAll := func(err error) error {
		for _, s := range sources {
			err = errors.Join(err, s.Close())
		}
		return err
	}
	for _, p := range o.Parts {
		source, err := o.open(p)
		if err != nil {
			return nil, closeAll(err)
		}
		sources = append(sources, source)
	}
	d, err := New(sources, o)
	if err != nil {
		return nil, closeAll(err)
	}
	return d, nil
}

// open opens one part.
func (o Options) open(p Part) (Source, error) {
	if len(p.Paths) == 0 {
		return nil, errors.New("no data paths are given")
	}
	switch {
	case o.Format == "megatron":
		return openMegatron(o, p.Paths)
	case o.Format == "text" && o.readsBytes():
		return openText(o, p.Paths)
	case o.Format == "text" || o.Format == "jsonl" || o.Format == "parquet" || o.Format == "chat":
		return o.openStore(p)
	}
	return nil, fmt.Errorf("data format %q is not known; use text, jsonl, chat, parquet or megatron", o.Format)
}

// New cuts sources into samples by the second part of o, from SequenceLength on. The data set owns the sources from then on and
// closes them.
func New(sources []Source, o Options) (*Dataset, error) {
	if o.SequenceLength < 1 {
		return nil, fmt.Errorf("sequence length %d; use at least 1", o.SequenceLength)
	}
	if !(o.ValidationSplit >= 0 && o.ValidationSplit < 1) {
		return nil, fmt.Errorf("validation split %v; use a fraction from 0 to below 1", o.ValidationSplit)
	}
	d := &Dataset{length: int64(o.SequenceLength), cache: o.Cache, row: newRow(o.SequenceLength)}
	d.masked = o.EODMaskLoss || o.packsWhole() || o.Format == "chat"
	if d.eod = o.EOD; o.packsWhole() {
		d.eod = -1
	}
	if o.EODMaskLoss {
		d.maskEOD, d.eod = true, o.EOD
	}
	if len(o.Parts) != len(sources) {
		return nil, fmt.Errorf("%d sources for %d parts", len(sources), len(o.Parts))
	}
	requests := o.requests()
	for i, source := range sources {
		p := &part{source: source, seed: o.Seed, number: i, shuffle: o.Shuffle, epoch: -1}
		if err := p.cut(o, requests[i]); err != nil {
			return nil, errors.Join(err, d.closeSamplers())
		}
		d.parts = append(d.parts, p)
	}
	var err error
	if d.order, err = newOrder(o, d.parts); err != nil {
		return nil, errors.Join(err, d.closeSamplers())
	}
	return d, nil
}

// closeSamplers closes what the parts hold beside their sources.
func (d *Dataset) closeSamplers() error {
	var err error
	for _, p := range d.parts {
		err = errors.Join(err, p.sampler.close())
	}
	return err
}

// Samples returns n, the number of samples in an epoch: those of all parts together.
func (d *Dataset) Samples() int64 {
	n := int64(0)
	for _, p := range d.parts {
		n += p.n
	}
	return n
}

// Fingerprint identifies the tokens that the samples are cut from, wherever the files lie. It may read all of them.
func (d *Dataset) Fingerprint() (string, error) {
	var all []string
	for _, p := range d.parts {
		f, err := cachedFingerprint(d.cache, p.source)
		if err != nil {
			return "", err
		}
		if p.tokens != p.source.Tokens() {
			f += fmt.Sprintf("[%d:%d]", p.first, p.last)
		}
		all = append(all, f)
	}
	return strings.Join(all, " "), nil
}

// Order says what order the samples come in, as far as it depends on more than the tokens, the seed and whether the run
// shuffles: Megatron-Core's changes with the number of samples that a run takes.
func (d *Dataset) Order() string {
	var parts []string
	for _, p := range d.parts {
		if m, ok := p.sampler.(*megatronSamples); ok {
			parts = append(parts, m.megatronShape.String())
		}
	}
	if parts == nil {
		return "lockstep"
	}
	return strings.Join(parts, "; ")
}

// Batch fills rows of b samples with micro batch micro, from 0, of step, from 0. A step of microBatches micro batches takes
// samples step*microBatches*b .. (step+1)*microBatches*b-1 of the run, in order; row r of micro batch m is the (m*b+r)-th of
// them, whichever rank asks for it.
func (d *Dataset) Batch(step, micro, microBatches int, rows Rows) error {
	s := int(d.length)
	if len(rows.IDs) == 0 || len(rows.IDs)%s != 0 || len(rows.Labels) != len(rows.IDs) {
		return fmt.Errorf("a batch of %d ids and %d labels: both must hold whole rows of %d", len(rows.IDs), len(rows.Labels), s)
	}
	if step < 0 || micro < 0 || micro >= microBatches {
		return fmt.Errorf("micro batch %d of %d in step %d: both count from 0", micro, microBatches, step)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := len(rows.IDs) / s
	first := (int64(step)*int64(microBatches) + int64(micro)) * int64(b)
	for r := range b {
		if err := d.sample(first + int64(r)); err != nil {
			return err
		}
		copy(rows.IDs[r*s:], d.row.ids)
		copy(rows.Labels[r*s:], d.row.labels)
		if rows.Starts != nil {
			copy(rows.Starts[r*s:], d.row.starts)
		}
		if rows.Positions != nil {
			for i, start := range d.row.starts {
				rows.Positions[r*s+i] = int32(i) - start
			}
		}
	}
	return nil
}

// sample fills d.row with sample i of the run, i >= 0. The lock is held.
func (d *Dataset) sample(i int64) error {
	if i < 0 {
		return fmt.Errorf("sample %d: samples count from 0", i)
	}
	number, j := d.order.place(i)
	if err := d.parts[number].sample(j, &d.row); err != nil {
		return fmt.Errorf("reading sample %d: %w", i, err)
	}
	if d.eod >= 0 && !d.parts[number].whole {
		documentStarts(d.row.starts, d.row.ids, d.eod)
	}
	if d.maskEOD {
		maskLabels(d.row.labels, d.row.ids, d.eod)
	}
	return nil
}

// Labels returns how many labels a step of the given number of samples has. Where some may be missing it reads the whole step,
// so that every rank gets the same number without asking the others.
func (d *Dataset) Labels(step, samples int) (int64, error) {
	if !d.masked {
		return int64(samples) * d.length, nil
	}
	n := int64(0)
	err := d.each(step, samples, func(r *row) error {
		for _, label := range r.labels {
			if label >= 0 {
				n++
			}
		}
		return nil
	})
	return n, err
}

// Inputs calls f with the inputs of each sample of a step of the given number of samples, in order. The slice is good until f
// returns.
func (d *Dataset) Inputs(step, samples int, f func(ids []int32) error) error {
	return d.each(step, samples, func(r *row) error { return f(r.ids) })
}

// each makes the samples of a step, one after the other.
func (d *Dataset) each(step, samples int, f func(*row) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range int64(samples) {
		if err := d.sample(int64(step)*int64(samples) + i); err != nil {
			return err
		}
		if err := f(&d.row); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the sources.
func (d *Dataset) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.closeSamplers()
	for _, p := range d.parts {
		err = errors.Join(err, p.source.Close())
	}
	if o, ok := d.order.(*megatronBlend); ok {
		err = errors.Join(err, o.close())
	}
	return err
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
