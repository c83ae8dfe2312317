package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

// A room is where the ranks of a test meet. One of them runs at a time: it goes on until it waits for others, so that a test does
// the same things in the same order every time.
type room struct {
	mu     sync.Mutex
	turned *sync.Cond
	turn   int
	size   int
	gone   []bool // ranks that are done
	said   [][]byte
	silent int        // ranks that have not yet said anything in this round
	heard  [][][]byte // by round
	mail   map[[2]int][][]byte
	sent   int   // bytes, by Exchange
	broken error // the job has failed
}

func newRoom(size int) *room {
	r := &room{size: size, gone: make([]bool, size), said: make([][]byte, size), silent: size, mail: map[[2]int][][]byte{}}
	r.turned = sync.NewCond(&r.mu)
	return r
}

// inRoom runs f as each of the ranks and returns their errors.
func inRoom(r *room, f func(p *person) error) []error {
	errs := make([]error, r.size)
	var all sync.WaitGroup
	for rank := range r.size {
		all.Go(func() {
			p := &person{room: r, rank: rank}
			_ = p.await(func() bool { return true })
			errs[rank] = f(p)
			r.mu.Lock()
			r.gone[rank] = true
			r.pass(rank)
			r.mu.Unlock()
		})
	}
	all.Wait()
	return errs
}

// asRanks runs f as n ranks, all of which must succeed.
func asRanks(t *testing.T, n int, f func(p *person) error) {
	t.Helper()
	if err := errors.Join(inRoom(newRoom(n), f)...); err != nil {
		t.Fatal(err)
	}
}

// pass gives the turn to the next rank.
func (r *room) pass(from int) {
	for i := 1; i <= r.size; i++ {
		if next := (from + i) % r.size; !r.gone[next] {
			r.turn = next
			break
		}
	}
	r.turned.Broadcast()
}

// A person is a rank in a room, as Peers.
type person struct {
	room  *room
	rank  int
	round int
}

func (p *person) Rank() int { return p.rank }
func (p *person) Size() int { return p.room.size }

// await lets others run until it is this rank's turn and ready says so, or the job has failed.
func (p *person) await(ready func() bool) error {
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		for r.turn != p.rank {
			r.turned.Wait()
		}
		if r.broken != nil || ready() {
			return r.broken
		}
		if alone := !slices.Contains(slices.Delete(slices.Clone(r.gone), p.rank, p.rank+1), false); alone {
			r.broken = errors.New("the others have left")
			continue
		}
		r.pass(p.rank)
	}
}

func (p *person) GatherBytes(_ context.Context, mine []byte) ([][]byte, error) {
	r := p.room
	r.mu.Lock()
	r.said[p.rank] = bytes.Clone(mine)
	if r.silent--; r.silent == 0 {
		r.heard, r.said, r.silent = append(r.heard, r.said), make([][]byte, r.size), r.size
	}
	r.mu.Unlock()
	round := p.round
	p.round++
	if err := p.await(func() bool { return len(r.heard) > round }); err != nil {
		return nil, err
	}
	return r.heard[round], nil
}

func (p *person) Exchange(transfers []Transfer) error {
	r := p.room
	r.mu.Lock()
	for _, t := range transfers {
		if !t.Receive {
			way := [2]int{p.rank, t.Peer}
			r.mail[way] = append(r.mail[way], bytes.Clone(t.Data))
			r.sent += len(t.Data)
		}
	}
	r.mu.Unlock()
	for _, t := range transfers {
		if !t.Receive {
			continue
		}
		way := [2]int{t.Peer, p.rank}
		if err := p.await(func() bool { return len(r.mail[way]) > 0 }); err != nil {
			return err
		}
		if copied := copy(t.Data, r.mail[way][0]); copied != len(t.Data) || copied != len(r.mail[way][0]) {
			return errors.New("a transfer of another size")
		}
		r.mail[way] = r.mail[way][1:]
	}
	return nil
}
