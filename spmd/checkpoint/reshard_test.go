package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

// A holding says which slices of each tensor each rank has: [rank][tensor], none where it has nothing of it.
type holding [][][]shard.Slice

// partition cuts a tensor for n ranks in one of the ways in which parallelisms do.
func partition(rng *rand.Rand, whole []int, n int) [][]shard.Slice {
	all := shard.All(whole...)
	held := make([][]shard.Slice, n)
	// split cuts s for the ranks [from, to).
	var split func(s shard.Slice, from, to int)
	split = func(s shard.Slice, from, to int) {
		ranks := to - from
		switch kind := rng.IntN(6); {
		case ranks == 1 || kind == 0: // replicas
			for rank := from; rank < to; rank++ {
				held[rank] = append(held[rank], s)
			}
		case kind == 1: // one rank alone, such as a pipeline stage or an expert's
			rank := from + rng.IntN(ranks)
			held[rank] = append(held[rank], s)
		case kind == 2: // ranges of elements, uneven, some of them empty
			at := 0
			for rank := from; rank < to; rank++ {
				end := at + rng.IntN(s.Len()-at+1)
				if rank == to-1 {
					end = s.Len()
				}
				held[rank] = append(held[rank], s.Range(at, end))
				at = end
			}
		default: // boxes of rows or columns; the last have less where ranks do not divide them, or nothing
			if !s.IsBox() || len(s.Shape) == 0 {
				split(s, from, from+1)
				return
			}
			dim := rng.IntN(len(s.Shape))
			parts := 2 + rng.IntN(ranks-1)
			each := (s.Shape[dim] + parts - 1) / parts
			for i := range parts {
				box := s.Cut(dim, min(s.Shape[dim], i*each), min(s.Shape[dim], (i+1)*each))
				split(box, from+i*ranks/parts, from+(i+1)*ranks/parts)
			}
		}
	}
	split(all, 0, n)
	return held
}

// layout cuts tensors for n ranks.
func layout(rng *rand.Rand, tensors []memory, n int) holding {
	h := make(holding, n)
	for _, m := range tensors {
		for rank, slices := range partition(rng, m.shape, n) {
			h[rank] = append(h[rank], slices)
		}
	}
	return h
}

// randomState returns tensors of random types, shapes and elements, small ones and some of several blocks.
func randomState(rng *rand.Rand) (tensors []memory) {
	types := []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.I64, safetensors.U8}
	for i := range 1 + rng.IntN(6) {
		m := memory{name: fmt.Sprintf("weight/%d", i), dtype: types[rng.IntN(len(types))]}
		most := []int{3, 9, 150}[rng.IntN(3)]
		for range rng.IntN(4) {
			m.shape = append(m.shape, 1+rng.IntN(most))
			most = min(most, 12)
		}
		m.data = make([]byte, elements(m.shape)*m.dtype.Bits()/8)
		for j := range m.data {
			m.data[j] = byte(rng.Uint32())
		}
		tensors = append(tensors, m)
	}
	return tensors
}

// pieces lists what a rank saves.
func (h holding) pieces(tensors []memory, rank int) (parts []Part, from []memory) {
	for i, m := range tensors {
		for _, s := range h[rank][i] {
			parts, from = append(parts, m.part(s)), append(from, m)
		}
	}
	return parts, from
}

// saveAs saves a state as a rank that holds h.
func saveAs(s *Store, h holding, tensors []memory, step int) error {
	parts, from := h.pieces(tensors, s.peers.Rank())
	shares, err := s.Divide(context.Background(), parts)
	if err != nil {
		return err
	}
	snapshot := &Snapshot{Step: step, Record: Record{{"run.seed", "42"}}}
	for i, share := range shares {
		snapshot.Pieces = append(snapshot.Pieces, from[i].piece(share.Slice))
	}
	return s.Save(context.Background(), snapshot)
}

// readAs restores the slices that a rank holds in h, and compares them with the state.
func readAs(s *Store, h holding, tensors []memory) error {
	parts, from := h.pieces(tensors, s.peers.Rank())
	got := make([][]byte, len(parts))
	for i, p := range parts {
		got[i] = make([]byte, p.bytes(p.Slice.Len()))
	}
	_, _, err := s.Restore(context.Background(), Want{
		Parts: func(*Loaded) []Part { return parts },
		Read: func(l *Loaded) error {
			return l.Read(parts, func(i, at int, elements []byte) error {
				copy(got[i][parts[i].bytes(at):], elements)
				return nil
			})
		},
	})
	for i, p := range parts {
		if want := from[i].elements(p.Slice); err == nil && !bytes.Equal(got[i], want) {
			err = fmt.Errorf("rank %d: %v of %s is not what was saved", s.peers.Rank(), p.Slice, p.Name)
		}
	}
	return err
}

// openAs opens a store as a rank.
func openAs(t *testing.T, p *person, dir string, o Options) (*Store, error) {
	o.Peers = p
	s, err := openStore(newFaultyFS(t, failOnce, 0), dir, o)
	if err == nil {
		s.chunk = 512
	}
	return s, err
}

// TestAnyPartitionGoesIntoAnyOther saves random states in random partitions, from ranks whose directories are one or several,
// and reads them in others.
func TestAnyPartitionGoesIntoAnyOther(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 5))
		tensors := randomState(rng)
		places := 1 + rng.IntN(3)
		before, after := places+rng.IntN(6), places+rng.IntN(6)
		from, to := layout(rng, tensors, before), layout(rng, tensors, after)
		o := Options{Format: []Format{HuggingFace, Ckpt}[rng.IntN(2)]}
		dir := t.TempDir()
		place := func(rank int) string { return filepath.Join(dir, fmt.Sprint(rank%places)) }
		asRanks(t, before, func(p *person) error {
			s, err := openAs(t, p, place(p.rank), o)
			if err != nil {
				return err
			}
			return errors.Join(saveAs(s, from, tensors, 7), s.Close())
		})
		asRanks(t, after, func(p *person) error {
			s, err := openAs(t, p, place(p.rank), o)
			if err != nil {
				return err
			}
			if err := readAs(s, to, tensors); err != nil {
				return fmt.Errorf("seed %d, %d ranks to %d, %d places: %w", seed, before, after, places, err)
			}
			return s.Close()
		})
		if t.Failed() {
			return
		}
	}
}

// Replicas write the state once, and equally much each; what one of them cannot see is sent, and no more.
func TestReplicasShareTheWriting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var tensors []memory
	for i, n := range []int{40_000, 3, 90_000, 8192, 1} {
		m := memory{fmt.Sprint(i), safetensors.F32, []int{n}, make([]byte, 4*n)}
		for j := range m.data {
			m.data[j] = byte(rng.Uint32())
		}
		tensors = append(tensors, m)
	}
	const ranks = 3
	h := make(holding, ranks)
	for rank := range h {
		for _, m := range tensors {
			h[rank] = append(h[rank], []shard.Slice{m.all()})
		}
	}
	dir := t.TempDir()
	asRanks(t, ranks, func(p *person) error {
		s, err := openAs(t, p, dir, Options{})
		if err != nil {
			return err
		}
		parts, _ := h.pieces(tensors, p.rank)
		shares, err := s.Divide(context.Background(), parts)
		if err != nil {
			return err
		}
		bytes := 0
		for _, share := range shares {
			bytes += share.bytes(share.Slice.Len())
		}
		if whole := 4 * 138_196; bytes < whole/ranks-4*blockElements || bytes > whole/ranks+4*blockElements {
			return fmt.Errorf("rank %d writes %d of %d bytes", p.rank, bytes, whole)
		}
		return errors.Join(saveAs(s, h, tensors, 1), s.Close())
	})
	// On a host of its own, rank 0 wants half of one tensor.
	r := newRoom(2)
	wants := holding{{nil, nil, {shard.All(90_000).Range(0, 45_000)}, nil, nil}, {nil, nil, nil, nil, nil}}
	other := t.TempDir()
	errs := inRoom(r, func(p *person) error {
		s, err := openAs(t, p, []string{other, dir}[p.rank], Options{})
		if err != nil {
			return err
		}
		return errors.Join(readAs(s, wants, tensors), s.Close())
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if r.sent < 4*45_000 || r.sent > 4*45_000+3*512*3 {
		t.Errorf("%d bytes were sent for a slice of %d", r.sent, 4*45_000)
	}
	if left := globIn(other, "*"); len(left) > 0 {
		t.Errorf("%v is left of what was sent", left)
	}
}

// A file that is nowhere is named, and the checkpoint before it is used; with none, the run does not start anew.
func TestMissingFilesAreNamed(t *testing.T) {
	tensors := []memory{{"w", safetensors.U8, []int{4}, []byte{1, 2, 3, 4}}}
	halves := holding{{{shard.All(4).Range(0, 2)}}, {{shard.All(4).Range(2, 4)}}}
	dir := t.TempDir()
	place := func(rank int) string { return filepath.Join(dir, fmt.Sprint(rank)) }
	save := func(step int) {
		t.Helper()
		asRanks(t, 2, func(p *person) error {
			s, err := openAs(t, p, place(p.rank), Options{})
			if err != nil {
				return err
			}
			return errors.Join(saveAs(s, halves, tensors, step), s.Close())
		})
	}
	save(1)
	save(2)
	alone, err := openAs(t, &person{room: newRoom(1)}, place(0), Options{})
	if err != nil {
		t.Fatal(err)
	}
	whole := holding{{{shard.All(4)}}}
	err = readAs(alone, whole, tensors)
	if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "state-00001.safetensors: missing on all hosts of this job") {
		t.Errorf("half of a checkpoint: %v", err)
	}
	if _, err := LoadDir(alone.Path(2)); err == nil || !strings.Contains(err.Error(), "state-00001.safetensors is missing") {
		t.Errorf("half of a checkpoint, opened alone: %v", err)
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	if err := replace(filepath.Join(place(1), "step-00000002", "state-00001.safetensors"), nil); err != nil {
		t.Fatal(err)
	}
	asRanks(t, 2, func(p *person) error {
		s, err := openAs(t, p, place(p.rank), Options{})
		if err != nil {
			return err
		}
		dir, step, err := s.Restore(context.Background(), Want{Parts: func(l *Loaded) []Part { return l.Parts("") }, Read: func(*Loaded) error { return nil }})
		if err != nil || step != 1 || dir != s.Path(1) {
			return fmt.Errorf("went on from step %d in %s: %w", step, dir, err)
		}
		return s.Close()
	})
}
