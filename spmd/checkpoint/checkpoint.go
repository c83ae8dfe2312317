// Package checkpoint keeps what a run must not lose: the training state, from which a run resumes with the same bits (Store),
// and the weights, as Hugging Face model directories (OpenWeights, WriteModel).
//
// A training checkpoint is a directory:
//
//	checkpoints/
//	  step-00000100/
//	    state-00000.safetensors ...   what each rank has written: slices of parameters and optimizer state
//	    manifest.json                 the step, the record, where every slice of every tensor is, and the checksums
//	    COMPLETE                      the SHA-256 of manifest.json
//	  latest                          the name of the newest one, for people and scripts
//
// Each rank writes slices of its own (see Divide), so that saving takes the time that one rank's part of the state takes. One
// rank makes the directory and, once all others have put their files on the disk, writes the manifest. The directory has another name
// until then (step-00000100.partial); every file is synced, COMPLETE is the last, and then it is renamed. Whatever moment a
// crash or a power failure picks, a directory named step-N is whole or, on a file system that does not keep its promises,
// found damaged: COMPLETE vouches for the manifest, and the manifest for every other byte, one MiB at a time. A damaged
// checkpoint is named, with the reason, and the one before it is used.
//
// A tensor is its slices, wherever they are: whoever wants a slice of it, cut in whatever way, reads the bytes that it has in
// common with those in the files, and verifies the checksums of just those MiB. So any layout of ranks goes on from a
// checkpoint of any other. Ranks whose hosts share no disk write, and keep, checkpoints together: every host has the manifest
// and its own ranks' files, and what others need of these is sent to them.
package checkpoint

import (
	"fmt"
	"io"
	"slices"

	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

// A Part is a slice of a tensor that a rank holds, or wants.
type Part struct {
	Name  string
	DType safetensors.DType
	Slice shard.Slice
}

// bytes returns the size of n elements.
func (p Part) bytes(n int) int { return n * p.DType.Bits() / 8 }

// A Piece is a slice of a tensor with its elements, to be saved.
type Piece struct {
	Part
	// Data writes the elements, row-major and little-endian. It is called while the save runs, so that the state need not
	// be in memory a second time, unless it goes on to change meanwhile.
	Data func(w io.Writer) error
}

// A Snapshot is one rank's part of the state of a run after a step, as it is saved.
type Snapshot struct {
	Step int
	// Record is that of the run; rank 0's counts.
	Record Record
	// Pieces have distinct names. Their order is kept.
	Pieces []Piece
}

// A Record lists what decides a run's numbers, such as the seed, the number of gradient lanes, the fingerprint of the data
// and the kernel set. A run may resume from a checkpoint whose record equals its own.
type Record []Entry

// An Entry is one line of a Record: the key of config.toml, or another name that the user knows, and the value as text.
type Entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Get returns the value of key. ok is false when the record does not have it.
func (r Record) Get(key string) (value string, ok bool) {
	i := slices.IndexFunc(r, func(e Entry) bool { return e.Key == key })
	if i < 0 {
		return "", false
	}
	return r[i].Value, true
}

// A Difference is a key for which two records disagree, with both values as they should be shown.
type Difference struct {
	Key, Saved, Now string
}

// absent is shown for a key that one of the records lacks.
const absent = "(not recorded)"

// CompareRecords lists the keys whose values differ, in the order of now; keys that only saved has come last.
func CompareRecords(saved, now Record) []Difference {
	var list []Difference
	for _, e := range now {
		was, ok := saved.Get(e.Key)
		if !ok {
			was = absent
		}
		if !ok || was != e.Value {
			list = append(list, Difference{Key: e.Key, Saved: was, Now: e.Value})
		}
	}
	for _, e := range saved {
		if _, ok := now.Get(e.Key); !ok {
			list = append(list, Difference{Key: e.Key, Saved: e.Value, Now: absent})
		}
	}
	return list
}

// check refuses a snapshot that could not be loaded again.
func (s *Snapshot) check() error {
	if s.Step < 0 {
		return fmt.Errorf("step %d is negative", s.Step)
	}
	keys := map[string]bool{}
	for _, e := range s.Record {
		if keys[e.Key] {
			return fmt.Errorf("the record has %q twice", e.Key)
		}
		keys[e.Key] = true
	}
	names := map[string]bool{}
	for _, p := range s.Pieces {
		if names[p.Name] {
			return fmt.Errorf("tensor %q occurs twice", p.Name)
		}
		names[p.Name] = true
		if err := p.Slice.Check(); err != nil {
			return fmt.Errorf("tensor %q: %w", p.Name, err)
		}
	}
	return nil
}
