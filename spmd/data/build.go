package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lockstep/spmd/data/tokenizer"
)

// storeVersion enters the key of every store: stores of another version are not taken over.
const storeVersion = 1

// A BuildOptions says which documents become tokens, how, and where the tokens go.
type BuildOptions struct {
	// Format is "text" (a document per file), "jsonl" (an object per line, or one array of objects) or "parquet".
	Format string
	// Paths, Exclude and Goroot name the files as in Options.
	Paths, Exclude []string
	Goroot         func() (string, error)
	// TextKey is the key of an object, or the column, that has the text.
	TextKey string
	// Tokenizer makes the tokens, and EOD follows each document; -1 for nothing.
	Tokenizer tokenizer.Tokenizer
	EOD       int32
	// Prefix is the path of the pair to write, without .bin.
	Prefix string
	// Workers is the number of goroutines that tokenize; 0 means one per core.
	Workers int
	// Progress is called after each piece of the input, by one goroutine.
	Progress func(Progress)
}

// Progress says how far a store is.
type Progress struct {
	Bytes, Total      int64 // of the input
	Documents, Tokens int64 // written
}

// Build writes the documents of o as a .bin/.idx pair that Megatron-LM reads, as uint16 where the vocabulary has fewer than
// 65,500 ids, else as int32. It works on all cores, in memory for a few pieces of the input. When ctx ends or the process
// is killed it can be called again with the same options: it goes on where it was and writes the same bytes. A pair that
// is there already and is not this one is an error.
func Build(ctx context.Context, o BuildOptions) (Progress, error) {
	b, err := o.builder(nil)
	if err != nil {
		return Progress{}, err
	}
	if _, ok := readStoreRecord(b.prefix, b.key); !ok {
		if _, err := os.Stat(b.prefix + ".idx"); err == nil {
			return Progress{}, fmt.Errorf("%s.idx is there already, from other data; remove the pair, or choose another name", b.prefix)
		}
	}
	record, err := b.run(ctx)
	return Progress{Bytes: b.total, Total: b.total, Documents: record.Documents, Tokens: record.Tokens}, err
}

// An encoder makes the tokens of a record. It is safe for concurrent use.
type encoder func(record []byte) (document, error)

// A builder writes one store.
type builder struct {
	in       input
	pieces   []piece
	total    int64 // bytes of the input
	encode   encoder
	tokens   tokenType
	prefix   string
	key      string
	workers  int
	progress func(Progress)
}

// builder finds the files of o. chat makes the tokens of format chat; it is nil for the others.
func (o BuildOptions) builder(chat *Chat) (*builder, error) {
	paths, err := findFiles(o.Paths, o.Exclude, o.Goroot)
	if err != nil {
		return nil, err
	}
	in, err := newInput(o.Format, paths, o.TextKey)
	if err != nil {
		return nil, err
	}
	recordText := textOf(o.Format, o.TextKey)
	b := builder{
		encode: func(record []byte) (document, error) {
			text, err := recordText(record)
			if err != nil {
				return nil, err
			}
			tokens := o.Tokenizer.EncodeSpecial(nil, text)
			if o.EOD >= 0 && (len(tokens) == 0 || tokens[len(tokens)-1] != o.EOD) { // some tokenizers end a text themselves
				tokens = append(tokens, o.EOD)
			}
			return tokens, nil
		},
		tokens: tokenTypeFor(o.Tokenizer.VocabSize()), prefix: o.Prefix, workers: o.Workers, progress: o.Progress,
		key: fmt.Sprintf("%s\x00%s\x00%s\x00%d", o.Format, o.TextKey, o.Tokenizer.Fingerprint(), o.EOD),
	}
	if chat != nil {
		b.encode, b.key = chat.encode, fmt.Sprintf("chat\x00%s\x00%s", chat.key, o.Tokenizer.Fingerprint())
		b.tokens = int32Tokens // signed: complements stand for tokens that are not predicted
	}
	return newBuilder(in, paths, b)
}

// newInput returns the input of a format that holds text.
func newInput(format string, paths []string, textKey string) (input, error) {
	switch format {
	case "text":
		return textInput(paths), nil
	case "jsonl":
		return jsonInput(paths), nil
	case "parquet":
		return parquetInput{paths, textKey}, nil
	case "chat":
		return newChatInput(paths)
	}
	return nil, fmt.Errorf("format %q is not known; use text, jsonl or parquet", format)
}

// textOf returns how the text of a record is found.
func textOf(format, key string) func([]byte) (string, error) {
	if format == "jsonl" {
		return func(record []byte) (string, error) { return jsonText(record, key) }
	}
	return func(record []byte) (string, error) { return string(record), nil }
}

// newBuilder completes b, whose key so far says how the records become tokens: sizes and times of change stand for the
// content of the files, which only the fingerprint of the finished store depends on.
func newBuilder(in input, paths []string, b builder) (*builder, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s\x00%d", storeVersion, b.key, b.tokens)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(h, "\x00%s\x00%d\x00%d", path, info.Size(), info.ModTime().UnixNano())
	}
	b.key = hex.EncodeToString(h.Sum(nil))
	if b.in = in; b.workers == 0 {
		b.workers = runtime.GOMAXPROCS(0)
	}
	return &b, nil
}

// run writes the store, or returns the record of the one that is there. Other processes that write the same one wait for each
// other: the first one works, the rest find it done.
func (b *builder) run(ctx context.Context) (storeRecord, error) {
	if err := os.MkdirAll(filepath.Dir(b.prefix), 0o755); err != nil {
		return storeRecord{}, err
	}
	unlock, err := lockFile(ctx, b.prefix+".lock")
	if err != nil {
		return storeRecord{}, err
	}
	defer unlock()
	if r, ok := readStoreRecord(b.prefix, b.key); ok {
		return r, nil
	}
	if b.pieces, err = b.in.pieces(); err != nil {
		return storeRecord{}, err
	}
	for _, p := range b.pieces {
		b.total += p.bytes
	}
	s, err := createStore(b.prefix, b.key, b.tokens)
	if err != nil {
		return storeRecord{}, err
	}
	if err := b.tokenize(ctx, s); err != nil {
		return storeRecord{}, errors.Join(err, s.close())
	}
	return s.finish()
}

// A tokenized is what became of a piece.
type tokenized struct {
	documents []document
	err       error
}

// tokenize appends what the journal of s does not have yet. Workers take the pieces in order, and their results are written
// in order; one that is done waits, so that memory holds a piece or two for each worker.
func (b *builder) tokenize(ctx context.Context, s *store) error {
	first := min(s.journal.Pieces, len(b.pieces))
	p := Progress{Total: b.total, Documents: s.journal.Documents, Tokens: s.journal.Tokens}
	for _, done := range b.pieces[:first] {
		p.Bytes += done.bytes
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	results := make(chan chan tokenized, b.workers)
	jobs := make(chan func())
	for range b.workers {
		workers.Go(func() {
			for job := range jobs {
				job()
			}
		})
	}
	workers.Go(func() { b.dispatch(ctx, first, jobs, results) })
	for result := range results {
		t := <-result
		if t.err != nil {
			return t.err
		}
		if err := s.append(t.documents); err != nil {
			return err
		}
		p.Bytes += b.pieces[s.journal.Pieces-1].bytes
		p.Documents, p.Tokens = s.journal.Documents, s.journal.Tokens
		if b.progress != nil {
			b.progress(p)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return context.Cause(ctx)
}

// dispatch hands the pieces to the workers and the places of their results to the writer, until ctx ends.
func (b *builder) dispatch(ctx context.Context, first int, jobs chan<- func(), results chan<- chan tokenized) {
	defer close(results)
	defer close(jobs)
	for _, p := range b.pieces[first:] {
		result := make(chan tokenized, 1)
		select {
		case results <- result:
		case <-ctx.Done():
			return
		}
		// A place that was handed out gets its result in any case.
		jobs <- func() {
			var t tokenized
			if t.err = context.Cause(ctx); t.err == nil {
				t.documents, t.err = b.piece(p)
			}
			result <- t
		}
	}
}

// piece tokenizes one piece.
func (b *builder) piece(p piece) ([]document, error) {
	var documents []document
	err := b.in.read(p, func(record []byte) error {
		d, err := b.encode(record)
		if err == nil {
			documents = append(documents, d)
		}
		return err
	})
	return documents, err
}

// lockFile waits until this process alone holds a file, which is made if it is not there. The kernel lets go of the file when
// the process ends, however it ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(file) }()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
		}
		return func() { _ = file.Close() }, nil
	case <-ctx.Done():
		go func() { // when the lock comes after all, it is let go
			<-locked
			_ = file.Close()
		}()
		return nil, context.Cause(ctx)
	}
}

// flock waits for the lock of an open file.
func flock(file *os.File) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// newChatInput sorts the files of conversations by what they are: Parquet by the name, else JSON.
func newChatInput(paths []string) (input, error) {
	parquet := func(path string) bool { return strings.EqualFold(filepath.Ext(path), ".parquet") }
	switch {
	case !slices.ContainsFunc(paths, parquet):
		return jsonInput(paths), nil
	case slices.ContainsFunc(paths, func(path string) bool { return !parquet(path) }):
		return nil, errors.New("the files of conversations are JSON and Parquet; use either, or blend them with [[data.blend]]")
	}
	return parquetInput{paths: paths}, nil
}
