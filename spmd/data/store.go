package data

import (
	"bufio"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// A store is a .bin/.idx pair being written. Until it is complete it lies in files of its own next to the pair: the tokens in
// NAME.bin.partial, the lengths of the documents in NAME.lengths.partial, and in NAME.journal how much of both is sound and
// which input comes next. A writer that was killed goes on from the journal and arrives at the same bytes.
type store struct {
	prefix  string
	tokens  tokenType
	journal journal
	bin     *partialFile
	lengths *partialFile
	content hash.Hash // of all documents, each as its length and its tokens
	buffer  []byte
}

// A journal is the state of a store whose first Pieces pieces are written.
type journal struct {
	// Key identifies what is written: its inputs and how they become tokens. A journal of another key is of no use.
	Key       string
	Pieces    int
	Documents int64
	Tokens    int64
	// Content is the state of the hash over the documents.
	Content []byte
}

// A storeRecord describes a complete store, in NAME.json beside it.
type storeRecord struct {
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"`
	Documents   int64  `json:"documents"`
	Tokens      int64  `json:"tokens"`
}

// tokenTypeFor returns the narrowest type that Megatron-LM chooses for a vocabulary: uint16 below 65,500 ids, int32 from
// there on.
func tokenTypeFor(vocabulary int) tokenType {
	if vocabulary > 0 && vocabulary < 65500 {
		return uint16Tokens
	}
	return int32Tokens
}

// createStore starts a store, or goes on with one of the same key. Its journal then says how far it is.
func createStore(prefix, key string, t tokenType) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return nil, err
	}
	s := &store{prefix: prefix, tokens: t, content: sha256.New(), journal: journal{Key: key}}
	if err := s.readJournal(key); err != nil {
		return nil, err
	}
	var err error
	if s.bin, err = openPartial(prefix+".bin.partial", s.journal.Tokens*int64(t.size())); err != nil {
		return nil, err
	}
	if s.lengths, err = openPartial(prefix+".lengths.partial", 4*s.journal.Documents); err != nil {
		return nil, errors.Join(err, s.bin.file.Close())
	}
	return s, nil
}

// readJournal takes over the journal of an interrupted writer if it is of this key and whole, and its files are there.
func (s *store) readJournal(key string) error {
	text, err := os.ReadFile(s.prefix + ".journal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var j journal
	if json.Unmarshal(text, &j) != nil || j.Key != key || j.Tokens < 0 || j.Documents < 0 {
		return nil
	}
	for suffix, size := range map[string]int64{".bin.partial": j.Tokens * int64(s.tokens.size()), ".lengths.partial": 4 * j.Documents} {
		if info, err := os.Stat(s.prefix + suffix); err != nil || info.Size() < size {
			return nil
		}
	}
	if s.content.(encoding.BinaryUnmarshaler).UnmarshalBinary(j.Content) != nil {
		s.content.Reset()
		return nil
	}
	s.journal = j
	return nil
}

// A document is a document's tokens. One that is not to be predicted is the complement of its id, so that the two cannot come
// apart; only stores of Lockstep's own, of signed tokens, hold such ones.
type document []int32

// append adds the documents of the next piece and makes them durable.
func (s *store) append(documents []document) error {
	for _, d := range documents {
		if len(d) > math.MaxInt32 {
			return fmt.Errorf("a document of %s; an index holds at most %s", count(int64(len(d)), "token"), group(math.MaxInt32))
		}
		s.buffer = binary.LittleEndian.AppendUint32(s.buffer[:0], uint32(len(d)))
		if _, err := s.lengths.Write(s.buffer); err != nil {
			return err
		}
		for _, id := range d {
			s.buffer = binary.LittleEndian.AppendUint32(s.buffer, uint32(id))
		}
		s.content.Write(s.buffer)
		if s.tokens == uint16Tokens {
			s.buffer = s.buffer[:4]
			for _, id := range d {
				s.buffer = binary.LittleEndian.AppendUint16(s.buffer, uint16(id))
			}
		}
		if _, err := s.bin.Write(s.buffer[4:]); err != nil {
			return err
		}
		s.journal.Tokens += int64(len(d))
	}
	s.journal.Documents += int64(len(documents))
	s.journal.Pieces++
	return s.sync()
}

// sync makes what was appended durable, and then the journal that counts on it.
func (s *store) sync() (err error) {
	if err := errors.Join(s.bin.sync(), s.lengths.sync()); err != nil {
		return err
	}
	if s.journal.Content, err = s.content.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
		return err
	}
	text, err := json.Marshal(s.journal)
	if err != nil {
		return err
	}
	return replaceFile(s.prefix+".journal", func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// finish puts the pair in place, the index last: a pair with an index is complete.
func (s *store) finish() (storeRecord, error) {
	record := storeRecord{Key: s.journal.Key, Documents: s.journal.Documents, Tokens: s.journal.Tokens,
		Fingerprint: "tokens:sha256:" + hex.EncodeToString(s.content.Sum(nil))}
	if err := s.close(); err != nil {
		return record, err
	}
	text, err := json.Marshal(record)
	if err != nil {
		return record, err
	}
	err = replaceFile(s.prefix+".json", func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return record, err
	}
	if err := os.Rename(s.prefix+".bin.partial", s.prefix+".bin"); err != nil {
		return record, err
	}
	if err := replaceFile(s.prefix+".idx", s.writeIndex); err != nil {
		return record, err
	}
	return record, errors.Join(os.Remove(s.prefix+".lengths.partial"), os.Remove(s.prefix+".journal"))
}

// writeIndex writes the .idx file: each document is one sequence.
func (s *store) writeIndex(w io.Writer) error {
	n := s.journal.Documents
	head := append([]byte(indexMagic), 0, 0, 0, 0, 0, 0, 0, 0, byte(s.tokens))
	head[len(indexMagic)] = indexVersion
	head = binary.LittleEndian.AppendUint64(head, uint64(n))
	head = binary.LittleEndian.AppendUint64(head, uint64(n)+1)
	if _, err := w.Write(head); err != nil {
		return err
	}
	lengths, err := os.Open(s.prefix + ".lengths.partial")
	if err != nil {
		return err
	}
	defer lengths.Close()
	if _, err := io.CopyN(w, lengths, 4*n); err != nil {
		return err
	}
	if _, err := lengths.Seek(0, io.SeekStart); err != nil {
		return err
	}
	at, r := int64(0), bufio.NewReaderSize(lengths, 1<<16)
	var number [8]byte
	for range n {
		binary.LittleEndian.PutUint64(number[:], uint64(at))
		if _, err := w.Write(number[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, number[:4]); err != nil {
			return err
		}
		at += int64(binary.LittleEndian.Uint32(number[:4])) * int64(s.tokens.size())
	}
	for i := range n + 1 {
		binary.LittleEndian.PutUint64(number[:], uint64(i))
		if _, err := w.Write(number[:]); err != nil {
			return err
		}
	}
	return nil
}

// close closes the files; what the journal counts stays for a later writer.
func (s *store) close() error { return errors.Join(s.bin.file.Close(), s.lengths.file.Close()) }

// A partialFile is appended to in large writes.
type partialFile struct {
	*bufio.Writer
	file *os.File
}

// openPartial opens a file, which is made if it is not there, to go on after its first size bytes.
func openPartial(path string, size int64) (*partialFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(size); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := file.Seek(size, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &partialFile{bufio.NewWriterSize(file, 1<<20), file}, nil
}

func (p *partialFile) sync() error {
	if err := p.Flush(); err != nil {
		return err
	}
	return p.file.Sync()
}

// replaceFile writes a file beside path and renames it, so that a reader finds the old file or all of the new one.
func replaceFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	w := &partialFile{bufio.NewWriterSize(file, 1<<20), file}
	err = write(w)
	if err == nil {
		err = w.sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readStoreRecord returns the record of a complete store of the given key; false if there is none.
func readStoreRecord(prefix, key string) (storeRecord, bool) {
	text, err := os.ReadFile(prefix + ".json")
	if err != nil {
		return storeRecord{}, false
	}
	var r storeRecord
	if json.Unmarshal(text, &r) != nil || r.Key != key {
		return storeRecord{}, false
	}
	_, err = os.Stat(prefix + ".idx")
	return r, err == nil
}
