package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
)

// hashChunk is how much text is hashed by itself: large texts are hashed on all cores.
const hashChunk = 16 << 20

// Fingerprint implements Source: SHA-256 over the end-of-document token and, for each file in order, its size and the SHA-256
// of each 16 MiB of it. Names do not enter, other than by the order of the files.
func (s *textSource) Fingerprint() (string, error) {
	type chunk struct {
		file   int
		offset int64
	}
	var chunks []chunk
	for i, f := range s.files {
		for at := int64(0); at < f.size; at += hashChunk {
			chunks = append(chunks, chunk{i, at})
		}
	}
	sums := make([][sha256.Size]byte, len(chunks))
	var mu sync.Mutex // guards next and failure
	next, failure := 0, error(nil)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(chunks)) {
		workers.Go(func() {
			buffer := make([]byte, 1<<20)
			for {
				mu.Lock()
				k := next
				next++
				stop := failure != nil || k >= len(chunks)
				mu.Unlock()
				if stop {
					return
				}
				err := s.hashChunk(&sums[k], chunks[k].file, chunks[k].offset, buffer)
				if err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	if failure != nil {
		return "", fmt.Errorf("taking the fingerprint of the text files: %w", failure)
	}
	h := sha256.New()
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(s.eod)))
	k := 0
	for i, f := range s.files {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(f.size)))
		for ; k < len(chunks) && chunks[k].file == i; k++ {
			h.Write(sums[k][:])
		}
	}
	return "text:sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// hashChunk sets sum to the hash of the bytes of file i from offset on.
func (s *textSource) hashChunk(sum *[sha256.Size]byte, i int, offset int64, buffer []byte) error {
	file, err := os.Open(s.files[i].path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := s.checkSize(file, i); err != nil {
		return err
	}
	h := sha256.New()
	// Only the Read method is passed on: os.File's own way of copying would allocate a buffer for each file.
	part := io.NewSectionReader(file, offset, min(hashChunk, s.files[i].size-offset))
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{part}, buffer); err != nil {
		return fmt.Errorf("reading %s: %w", s.files[i].path, err)
	}
	h.Sum(sum[:0])
	return nil
}
