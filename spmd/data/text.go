package data

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sort"

	"lockstep/spmd/data/tokenizer"
)

const (
	// maxOpenFiles is how many files a text source keeps open. Samples in file order need one; shuffled ones come from
	// anywhere, and opening a file costs far less than the step that the sample feeds.
	maxOpenFiles = 32
	// maxRead is how many bytes of a file are read at once.
	maxRead = 64 << 10
)

// A textSource is a sequence of text files under the byte tokenizer: the bytes of each, then an end-of-document token.
// It holds no text, only where each file's tokens begin.
type textSource struct {
	files  []textFile
	tokens int64
	eod    int32

	open   []openFile // at most maxOpenFiles
	reads  int64      // counts the uses of open, to find the one not used for longest
	buffer [maxRead]byte
}

// A textFile is a file of a text source.
type textFile struct {
	path  string
	size  int64 // in bytes, when the source was opened
	first int64 // number of the file's first token; its end-of-document token is number first+size
}

// An openFile is an open file of a text source.
type openFile struct {
	index int // in files
	file  *os.File
	used  int64 // value of reads at the last use
}

// openText finds the files at the wanted paths and records their sizes.
func openText(o Options, wanted []string) (*textSource, error) {
	if o.EOD < 0 {
		return nil, fmt.Errorf("end-of-document token %d; use an id from 0 on, such as %d", o.EOD, tokenizer.EndOfDocument)
	}
	if need := max(int(o.EOD)+1, tokenizer.EndOfDocument); o.VocabSize > 0 && o.VocabSize < need {
		return nil, fmt.Errorf("text has byte ids 0 to 255 and end-of-document token %d, but the model's vocabulary has %d ids; "+
			"give the model a vocabulary of at least %d", o.EOD, o.VocabSize, need)
	}
	paths, err := findFiles(wanted, o.Exclude, o.Goroot)
	if err != nil {
		return nil, err
	}
	s := &textSource{files: make([]textFile, len(paths)), eod: o.EOD, open: make([]openFile, 0, maxOpenFiles)}
	for i, path := range paths {
		size, err := readableSize(path)
		if err != nil {
			return nil, fmt.Errorf("reading the text files: %w", err)
		}
		s.files[i] = textFile{path: path, size: size, first: s.tokens}
		s.tokens += size + 1
	}
	return s, nil
}

// readableSize returns the size of a file that can be opened, so that one that cannot is known before the first step.
func readableSize(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Tokens implements Source.
func (s *textSource) Tokens() int64 { return s.tokens }

// Summary implements Source.
func (s *textSource) Summary() string {
	files := int64(len(s.files))
	return fmt.Sprintf("%s, %s, %s", count(files, "file"), megabytes(s.tokens-files), count(s.tokens, "token"))
}

// ReadTokens implements Source.
func (s *textSource) ReadTokens(dst []int32, at int64) error {
	if err := checkRange(dst, at, s.tokens); err != nil {
		return err
	}
	// The first file whose end-of-document token is not before at.
	i := sort.Search(len(s.files), func(i int) bool { return s.files[i].first+s.files[i].size >= at })
	for len(dst) > 0 {
		f := s.files[i]
		offset := at - f.first
		n := min(f.size-offset, int64(len(dst)), maxRead)
		if n == 0 {
			dst[0] = s.eod
			n = 1
			i++
		} else if err := s.readBytes(dst[:n], i, offset); err != nil {
			return err
		}
		dst = dst[n:]
		at += n
	}
	return nil
}

// readBytes fills dst, of at most maxRead, with the bytes of file i from offset on.
func (s *textSource) readBytes(dst []int32, i int, offset int64) error {
	file, err := s.opened(i)
	if err != nil {
		return err
	}
	if err := s.checkSize(file, i); err != nil {
		return err
	}
	b := s.buffer[:len(dst)]
	if _, err := file.ReadAt(b, offset); err != nil {
		return fmt.Errorf("reading %d bytes at %d of %s: %w", len(b), offset, s.files[i].path, err)
	}
	for k, v := range b {
		dst[k] = int32(v)
	}
	return nil
}

// opened returns file i, open, in place of the open one not used for longest where there are enough.
func (s *textSource) opened(i int) (*os.File, error) {
	s.reads++
	oldest := 0
	for k := range s.open {
		if s.open[k].index == i {
			s.open[k].used = s.reads
			return s.open[k].file, nil
		}
		if s.open[k].used < s.open[oldest].used {
			oldest = k
		}
	}
	file, err := os.Open(s.files[i].path)
	if err != nil {
		return nil, fmt.Errorf("reading text: %w", err)
	}
	opened := openFile{index: i, file: file, used: s.reads}
	if len(s.open) < maxOpenFiles {
		s.open = append(s.open, opened)
		return file, nil
	}
	err = s.open[oldest].file.Close()
	s.open[oldest] = opened
	if err != nil {
		return nil, fmt.Errorf("closing a text file: %w", err)
	}
	return file, nil
}

// checkSize refuses file i if it has grown or shrunk since the source was opened: every token after it would be another.
func (s *textSource) checkSize(file *os.File, i int) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if f := s.files[i]; info.Size() != f.size {
		return fmt.Errorf("%s had %d bytes when the run started and has %d now; data must not change during a run, start again",
			f.path, f.size, info.Size())
	}
	return nil
}

// Documents implements Source: each file is one.
func (s *textSource) Documents() int64 { return int64(len(s.files)) }

// Document implements Source.
func (s *textSource) Document(i int64) (at, length int64) {
	return s.files[i].first, s.files[i].size + 1
}

// Identity implements Source.
func (s *textSource) Identity() string {
	h := sha256.New()
	for _, f := range s.files {
		identify(h, f.path)
	}
	return fmt.Sprintf("text %d %x", s.eod, h.Sum(nil))
}

// Close implements Source.
func (s *textSource) Close() error {
	var errs []error
	for _, o := range s.open {
		errs = append(errs, o.file.Close())
	}
	s.open = nil
	return errors.Join(errs...)
}
