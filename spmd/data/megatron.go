package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// A .bin file is too large to hash as a whole; fingerprints take this many blocks, evenly spaced from the first bytes to
// the last, and its size.
const (
	fingerprintBlocks     = 64
	fingerprintBlockBytes = 4096
)

// A megatronSource is a sequence of .bin/.idx pairs, their .bin files mapped into memory.
type megatronSource struct {
	pairs  []indexedPair
	tokens int64
	// sequences is the number of documents: as for Megatron-Core's GPTDataset each sequence is one.
	sequences int64
	limit     int64 // ids are below it
	masked    bool  // complements of ids stand for tokens that are not to be predicted
}

// An indexedPair is PREFIX.bin with PREFIX.idx.
type indexedPair struct {
	prefix   string
	bin      string // the name of the .bin file
	index    index
	first    int64  // number of the pair's first token in the source
	sequence int64  // number of its first sequence
	mapped   []byte // the .bin file
	idx      []byte // the .idx file
}

// openMegatron maps the pairs at paths, in their order, without those of o.Exclude.
func openMegatron(o Options, paths []string) (*megatronSource, error) {
	s := &megatronSource{limit: math.MaxInt32 + 1, masked: o.Format == "chat"}
	if o.VocabSize > 0 {
		s.limit = min(s.limit, int64(o.VocabSize))
	}
	var excluded []fs.FileInfo
	for _, prefix := range o.Exclude {
		info, err := os.Stat(prefix + ".bin")
		if err != nil {
			return nil, pairError(prefix, err)
		}
		excluded = append(excluded, info)
	}
	for _, prefix := range paths {
		info, err := os.Stat(prefix + ".bin")
		if err == nil && slices.ContainsFunc(excluded, func(e fs.FileInfo) bool { return os.SameFile(e, info) }) {
			continue
		}
		pair, err := openPair(prefix)
		if err != nil {
			return nil, errors.Join(pairError(prefix, err), s.Close())
		}
		pair.first = s.tokens
		pair.sequence = s.sequences
		s.tokens += pair.index.tokens
		s.sequences += pair.index.sequences
		s.pairs = append(s.pairs, pair)
	}
	if len(s.pairs) == 0 {
		return nil, errors.New("no data is left for training: the validation paths name all of it")
	}
	return s, nil
}

// pairError wraps the error of opening a pair, with the remedy for what usually is wrong.
func pairError(prefix string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data path %q: %w", prefix, err)
	}
	remedy := "a path of format megatron is what the names of a .bin and an .idx file have in common"
	for _, suffix := range []string{".bin", ".idx"} {
		if cut, ok := strings.CutSuffix(prefix, suffix); ok {
			remedy += fmt.Sprintf("; write %q", cut)
		}
	}
	return fmt.Errorf("data path %q: %w; %s", prefix, err, remedy)
}

// openPair checks the .idx file of a pair and maps both files.
func openPair(prefix string) (p indexedPair, err error) {
	p = indexedPair{prefix: prefix, bin: prefix + ".bin"}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.idx, err = mapFile(prefix + ".idx"); err != nil {
		return p, err
	}
	err = guardMapping(prefix+".idx", func() error {
		var err error
		if p.index, err = parseIndex(p.idx); err != nil {
			return fmt.Errorf("%s.idx: %w", prefix, err)
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	if p.mapped, err = mapFile(p.bin); err != nil {
		return p, err
	}
	if want := p.index.tokens * int64(p.index.tokenType.size()); int64(len(p.mapped)) != want {
		return p, fmt.Errorf("%s.bin has %d bytes, its index describes %d tokens of %d bytes, %d bytes in all; the files belong to "+
			"different data, or one was cut short", prefix, len(p.mapped), p.index.tokens, p.index.tokenType.size(), want)
	}
	return p, nil
}

// length returns the number of tokens of a sequence.
func (p *indexedPair) length(sequence int64) int64 {
	return int64(int32(binary.LittleEndian.Uint32(p.idx[int64(indexHeader)+4*sequence:])))
}

// pointer returns the byte of the .bin file at which a sequence begins.
func (p *indexedPair) pointer(sequence int64) int64 {
	return int64(binary.LittleEndian.Uint64(p.idx[int64(indexHeader)+4*p.index.sequences+8*sequence:]))
}

// border returns the number of the sequence with which a document begins.
func (p *indexedPair) border(document int64) int64 {
	return int64(binary.LittleEndian.Uint64(p.idx[int64(indexHeader)+sequenceBytes*p.index.sequences+borderBytes*document:]))
}

// close unmaps the files.
func (p *indexedPair) close() error {
	err := errors.Join(unmap(p.mapped), unmap(p.idx))
	p.mapped, p.idx = nil, nil
	return err
}

// mapFile maps a file for reading. An empty file has no mapping.
func mapFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() == 0 {
		return nil, nil
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	return mem, nil
}

// unmap ends a mapping made by mapFile.
func unmap(mem []byte) error {
	if mem == nil {
		return nil
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("unmapping a data file: %w", err)
	}
	return nil
}

// guardMapping runs f, which reads the mapping of a file. If the file is cut short meanwhile, or its disk fails, the
// kernel answers the access with SIGBUS; that becomes an error here that names the file, not the end of the process.
func guardMapping(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(interface{ Addr() uintptr }); !ok {
				panic(r) // no memory fault
			}
			err = fmt.Errorf("%s can no longer be read where it is mapped: it was cut short, or its disk fails", path)
		}
	}()
	return f()
}

// Tokens implements Source.
func (s *megatronSource) Tokens() int64 { return s.tokens }

// Summary implements Source.
func (s *megatronSource) Summary() string {
	var bytes, sequences int64
	for _, p := range s.pairs {
		bytes += int64(len(p.mapped))
		sequences += p.index.sequences
	}
	return fmt.Sprintf("%s, %s, %s, %s", count(int64(len(s.pairs)), "pair"), megabytes(bytes),
		count(sequences, "sequence"), count(s.tokens, "token"))
}

// ReadTokens implements Source.
func (s *megatronSource) ReadTokens(dst []int32, at int64) error {
	if err := checkRange(dst, at, s.tokens); err != nil {
		return err
	}
	// The first pair that ends after at.
	i := sort.Search(len(s.pairs), func(i int) bool { return s.pairs[i].first+s.pairs[i].index.tokens > at })
	for ; len(dst) > 0; i++ {
		p := &s.pairs[i]
		n := min(p.first+p.index.tokens-at, int64(len(dst)))
		err := guardMapping(p.bin, func() error { return p.read(dst[:n], at-p.first, s.limit, s.masked) })
		if err != nil {
			return err
		}
		dst = dst[n:]
		at += n
	}
	return nil
}

// Documents implements Source.
func (s *megatronSource) Documents() int64 { return s.sequences }

// Document implements Source.
func (s *megatronSource) Document(i int64) (at, length int64) {
	k := sort.Search(len(s.pairs), func(k int) bool { return s.pairs[k].sequence+s.pairs[k].index.sequences > i })
	p := &s.pairs[k]
	i -= p.sequence
	return p.first + p.pointer(i)/int64(p.index.tokenType.size()), p.length(i)
}

// Identity implements Source.
func (s *megatronSource) Identity() string {
	var b strings.Builder
	for _, p := range s.pairs {
		identify(&b, p.prefix+".idx")
		identify(&b, p.bin)
	}
	return b.String()
}

// read fills dst with the pair's tokens from number at on, all of them below limit.
func (p *indexedPair) read(dst []int32, at, limit int64, masked bool) error {
	size := p.index.tokenType.size()
	src := p.mapped[at*int64(size):]
	for i := range dst {
		b := src[i*size:]
		id, whole := p.index.tokenType.token(b)
		if !whole {
			return fmt.Errorf("%s.bin: token %d is %v, not a whole number; write the pair anew", p.prefix, at+int64(i), p.index.tokenType.float(b))
		}
		bare := id
		if masked && id < 0 {
			bare = ^id
		}
		if bare < 0 || bare >= limit {
			return fmt.Errorf("%s.bin: token %d is %d, outside the vocabulary of 0 to %d; use the model that the data was tokenized for",
				p.prefix, at+int64(i), bare, limit-1)
		}
		dst[i] = int32(id)
	}
	return nil
}

// Fingerprint implements Source: SHA-256 over each pair's whole .idx file and the size and a fixed number of blocks of
// its .bin file, in order.
func (s *megatronSource) Fingerprint() (string, error) {
	h := sha256.New()
	for i := range s.pairs {
		if err := s.pairs[i].hash(h); err != nil {
			return "", fmt.Errorf("taking the fingerprint of %s: %w", s.pairs[i].prefix, err)
		}
	}
	return "megatron:sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// hash writes what identifies the pair to h.
func (p *indexedPair) hash(h hash.Hash) error {
	idx, err := os.Open(p.prefix + ".idx")
	if err != nil {
		return err
	}
	defer idx.Close()
	size, err := io.Copy(h, idx)
	if err != nil {
		return err
	}
	bin, err := os.Open(p.prefix + ".bin")
	if err != nil {
		return err
	}
	defer bin.Close()
	info, err := bin.Stat()
	if err != nil {
		return err
	}
	// The sizes also keep the parts apart.
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(info.Size())))
	block := make([]byte, min(fingerprintBlockBytes, info.Size()))
	last := info.Size() - int64(len(block)) // where the last block begins
	for k := range int64(fingerprintBlocks) {
		// last/(blocks-1)*k would be less even, last*k might overflow.
		at := last/(fingerprintBlocks-1)*k + last%(fingerprintBlocks-1)*k/(fingerprintBlocks-1)
		if _, err := bin.ReadAt(block, at); err != nil {
			return fmt.Errorf("reading %d bytes at %d of %s.bin: %w", len(block), at, p.prefix, err)
		}
		h.Write(block)
	}
	return nil
}

// Close implements Source.
func (s *megatronSource) Close() error {
	var errs []error
	for i := range s.pairs {
		errs = append(errs, s.pairs[i].close())
	}
	s.pairs, s.tokens = nil, 0
	return errors.Join(errs...)
}
