// Package checkpoint keeps what a run must not lose: the training state, from which a run resumes with the same bits (Store),
// and the weights, as Hugging Face model directories (OpenWeights, WriteModel).
//
// A training checkpoint is a directory:
//
//	checkpoints/
//	  step-00000100/
//	    state-00000.safetensors ...   the tensors: parameters, optimizer state
//	    manifest.json                 the step, the record, and the size and SHA-256 of every state file
//	    COMPLETE                      the SHA-256 of manifest.json
//	  latest                          the name of the newest one, for people and scripts
//
// It is written under another name (step-00000100.partial), file by file, each synced to the disk, COMPLETE last, and then
// renamed. Whatever moment a crash or a power failure picks, a directory named step-N is whole or, on a file system that
// does not keep its promises, found damaged: COMPLETE vouches for the manifest and the manifest for every other byte, and
// loading verifies both before it hands out a tensor. A damaged checkpoint is named, with the reason, and the one before
// it is used.
package checkpoint

import (
	"fmt"
	"slices"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint/safetensors"
)

// A Tensor is a tensor of a loaded checkpoint, row-major and little-endian.
type Tensor struct {
	Name  string
	DType device.DType
	// Shape has one entry per dimension; a scalar has none.
	Shape []int
	Data  []byte
}

// A Snapshot is the state of a run after a step, as it is saved.
type Snapshot struct {
	Step   int
	Record Record
	// Tensors have distinct names. Their order is kept. Their data is written while the save runs, so that the state need
	// not be in memory a second time, unless it goes on to change meanwhile.
	Tensors []safetensors.Tensor
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
	for _, t := range s.Tensors {
		if names[t.Name] {
			return fmt.Errorf("tensor %q occurs twice", t.Name)
		}
		names[t.Name] = true
	}
	return nil
}
