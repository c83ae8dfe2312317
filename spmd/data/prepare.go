package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lockstep/spmd/data/tokenizer"
)

// Prepare makes everything that Open needs and that takes long: the tokens of text, the tables of packed samples, Megatron's
// indices, and the fingerprint of what the run trains on. It belongs before the ranks join, where nobody waits with a limit
// of time: all ranks of a host call it, the first one works, on all cores, and the rest find everything done. What is there
// from an earlier run, or was begun by one, is taken over. progress may be nil.
func Prepare(ctx context.Context, o Options, progress func(Progress)) error {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return err
	}
	if o.makesTokens() {
		for _, p := range o.Parts {
			b, err := o.storeBuilder(p)
			if err != nil {
				return err
			}
			b.progress = progress
			if _, err := b.run(ctx); err != nil {
				return err
			}
		}
	}
	unlock, err := lockFile(ctx, filepath.Join(o.Cache, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	d, err := Open(o)
	if err != nil {
		return err
	}
	if !o.HeldOut {
		_, err = d.Fingerprint()
	}
	return errors.Join(err, d.Close())
}

// Check tells whether the files of o are there and are what the format says, as far as that shows without reading them whole.
// It writes nothing.
func Check(o Options) error {
	if o.makesTokens() {
		for _, p := range o.Parts {
			b, err := o.storeBuilder(p)
			if err == nil {
				err = b.try()
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	o.Cache, o.Megatron = "", nil
	d, err := Open(o)
	if err != nil {
		return err
	}
	return d.Close()
}

// try tokenizes the first record of each file.
func (b *builder) try() error {
	pieces, err := b.in.pieces()
	if err != nil {
		return err
	}
	if len(pieces) == 0 {
		return errors.New("the files are empty")
	}
	done := errors.New("one is enough")
	for i, p := range pieces {
		if i > 0 && p.file == pieces[i-1].file {
			continue
		}
		err := b.in.read(p, func(record []byte) error {
			if _, err := b.encode(record); err != nil {
				return err
			}
			return done
		})
		if err != nil && !errors.Is(err, done) {
			return err
		}
	}
	return nil
}

// readsBytes tells whether text needs no tokens made of it: its bytes are the tokens.
func (o Options) readsBytes() bool {
	_, bytes := o.Tokenizer.(tokenizer.Bytes)
	return o.Tokenizer == nil || bytes
}

// makesTokens tells whether Prepare makes stores of tokens.
func (o Options) makesTokens() bool {
	return o.Format == "jsonl" || o.Format == "parquet" || o.Format == "chat" || o.Format == "text" && !o.readsBytes()
}

// storeBuilder returns the builder of the store of one part.
func (o Options) storeBuilder(p Part) (*builder, error) {
	t := o.Tokenizer
	if t == nil {
		t = tokenizer.Bytes{}
	}
	b := BuildOptions{Format: o.Format, Paths: p.Paths, Exclude: o.Exclude, Goroot: o.Goroot, TextKey: o.TextKey, Tokenizer: t, EOD: o.EOD}
	if o.Format == "chat" {
		b.TextKey = "" // whole objects, and whole rows of Parquet
	}
	made, err := b.builder(o.Chat)
	if err != nil {
		return nil, err
	}
	made.prefix = filepath.Join(o.Cache, "tokens-"+made.key[:16])
	return made, nil
}

// A storeSource is a store that Prepare has made.
type storeSource struct {
	*megatronSource
	record storeRecord
}

// openStore opens the store of a part.
func (o Options) openStore(p Part) (Source, error) {
	b, err := o.storeBuilder(p)
	if err != nil {
		return nil, err
	}
	record, ok := readStoreRecord(b.prefix, b.key)
	if !ok {
		return nil, fmt.Errorf("the tokens of %s are not made yet, or its files changed since; start again", strings.Join(p.Paths, ", "))
	}
	o.Exclude = nil
	source, err := openMegatron(o, []string{b.prefix})
	if err != nil {
		return nil, err
	}
	return storeSource{source, record}, nil
}

// Fingerprint implements Source. It was taken of all tokens when they were written.
func (s storeSource) Fingerprint() (string, error) { return s.record.Fingerprint, nil }

// Summary implements Source.
func (s storeSource) Summary() string {
	return fmt.Sprintf("%s, %s", count(s.record.Documents, "document"), count(s.record.Tokens, "token"))
}

// cachedFingerprint returns the fingerprint of a source, from dir where it was kept there before: reading 100 GB takes longer
// than ranks wait for each other. What it was taken of is known by names, sizes and times of change; the fingerprint itself is
// of the content alone.
func cachedFingerprint(dir string, s Source) (string, error) {
	if _, ok := s.(storeSource); ok || dir == "" {
		return s.Fingerprint()
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%d %s", storeVersion, s.Identity()))
	path := filepath.Join(dir, "fingerprint-"+hex.EncodeToString(key[:8]))
	known, err := os.ReadFile(path)
	if err == nil && len(known) > 0 {
		return string(known), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	f, err := s.Fingerprint()
	if err != nil {
		return "", err
	}
	return f, replaceFile(path, func(w io.Writer) error { _, err := io.WriteString(w, f); return err })
}

// identify writes what tells a file from another, or from itself after a change, without its content.
func identify(w io.Writer, path string) {
	info, err := os.Stat(path)
	if err != nil {
		fmt.Fprintf(w, "%q is gone\n", path)
		return
	}
	fmt.Fprintf(w, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
}
