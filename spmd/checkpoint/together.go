package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Peers are the ranks that keep one store together: all those of a run. All of them call the same methods of their stores, in the
// same order.
type Peers interface {
	// Rank is this process's number among them, Size how many there are.
	Rank() int
	Size() int
	// GatherBytes returns what each rank passed, in their order, to all of them.
	GatherBytes(ctx context.Context, mine []byte) ([][]byte, error)
	// Exchange does all transfers at once. What goes from one rank to another arrives in the order of the slice.
	Exchange(transfers []Transfer) error
}

// A Transfer is one part of an Exchange: Data is sent to the rank Peer or received from it.
type Transfer struct {
	Peer    int
	Data    []byte
	Receive bool
}

// alone are the Peers of a process without others.
type alone struct{}

func (alone) Rank() int { return 0 }
func (alone) Size() int { return 1 }

func (alone) GatherBytes(_ context.Context, mine []byte) ([][]byte, error) {
	return [][]byte{mine}, nil
}

func (alone) Exchange([]Transfer) error { return nil }

// defaultPause is the pause of stores whose Options have none.
const defaultPause = 5 * time.Second

// word is what a rank says of its work.
type word[T any] struct {
	Busy   bool   `json:",omitempty"`
	Error  string `json:",omitempty"`
	Result T
}

// errPeers is what an exchange with the other ranks fails with: the job has failed, and there is nobody to agree with.
var errPeers = errors.New("the ranks of this checkpoint cannot reach each other")

// errAbandoned ends the work of a rank when that of another has failed.
var errAbandoned = errors.New("abandoned, as another rank failed")

// together runs work on every rank and returns what it came to on each, or else the failure of one, the same on all. It returns
// when the work of all has ended. A rank that is busy for long says so now and then, so that nobody takes it for lost, and learns
// of failures, which end the context of its work.
func together[T any](ctx context.Context, s *Store, work func(ctx context.Context) (T, error)) ([]T, error) {
	if s.peers.Size() == 1 {
		result, err := work(ctx)
		return []T{result}, err
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var failure error // this rank's own
	done := make(chan word[T], 1)
	go func() {
		result, err := work(working)
		w := word[T]{Result: result}
		if failure = err; err != nil {
			w.Error = err.Error()
		}
		done <- w
	}()
	busy := time.NewTicker(s.Pause)
	defer busy.Stop()
	mine := word[T]{Busy: true}
	for {
		if mine.Busy {
			select {
			case mine = <-done:
			case <-busy.C:
			}
		}
		words, err := tell(ctx, s.peers, mine)
		if err != nil { // the job has failed
			cancel(err)
			if mine.Busy {
				<-done
			}
			return nil, errors.Join(err, failure)
		}
		rank, waiting := firstFailure(words)
		if rank >= 0 {
			cancel(errAbandoned)
		}
		switch {
		case waiting:
		case rank == s.peers.Rank():
			return nil, fmt.Errorf("rank %d: %w", rank, failure)
		case rank >= 0:
			return nil, fmt.Errorf("rank %d: %s", rank, words[rank].Error)
		default:
			results := make([]T, len(words))
			for i, w := range words {
				results[i] = w.Result
			}
			return results, nil
		}
	}
}

// firstFailure returns the first rank that has failed for a reason of its own, -1 if there is none, and whether a rank is still
// busy.
func firstFailure[T any](words []word[T]) (rank int, busy bool) {
	rank = -1
	for i, w := range words {
		busy = busy || w.Busy
		if w.Error != "" && (rank < 0 || words[rank].Error == errAbandoned.Error()) {
			rank = i
		}
	}
	return rank, busy
}

// tell exchanges a value with the other ranks.
func tell[T any](ctx context.Context, p Peers, mine T) ([]T, error) {
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	// A rank that gave up alone would break the group; the others are told of the end of a context in other ways.
	texts, err := p.GatherBytes(context.WithoutCancel(ctx), text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPeers, err)
	}
	all := make([]T, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal(text, &all[i]); err != nil {
			return nil, fmt.Errorf("%w: what rank %d says is damaged: %w", errPeers, i, err)
		}
	}
	return all, nil
}

// nothing is the result of work that has none.
type nothing struct{}

// agree runs work on every rank, see together.
func agree(ctx context.Context, s *Store, work func() error) error {
	_, err := together(ctx, s, func(context.Context) (nothing, error) { return nothing{}, work() })
	return err
}
