package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/spmd/shard"
)

// fetchChunks is how many chunks are on their way at a time, over all ranks.
const fetchChunks = 16

// A chunk is one of a file, both by their numbers.
type chunk struct{ file, index int }

// lack is what a rank needs of files that its host does not have: of each, by its number, the chunks.
type lack struct {
	Place string
	Files map[int][]int
}

// A shipment is a chunk that one rank sends to others.
type shipment struct {
	chunk
	from int
	to   []int
}

// fetch gets what the ranks will read of files that are on other hosts. The ranks that see one directory get it once, into sparse
// files in their store, whose names are gone before this returns. Nothing is verified here: what is read is, wherever it comes from.
func (s *Store) fetch(ctx context.Context, l *Loaded, parts []Part) error {
	lacks, err := together(ctx, s, func(context.Context) (w lack, err error) {
		if w.Files, err = l.lacking(parts); len(w.Files) > 0 {
			w.Place, err = place(s.dir)
		}
		return w, err
	})
	if err != nil {
		return err
	}
	to := destinations(lacks)
	if len(to) == 0 {
		return nil
	}
	plan, err := s.planShipments(ctx, l, to)
	if err != nil {
		return err
	}
	// The first rank of each place receives.
	mine := lacks[s.peers.Rank()]
	receives := len(mine.Files) > 0 && leader(lacks, mine.Place) == s.peers.Rank()
	dir := filepath.Join(s.dir, fetchedName+partialSuffix)
	if receives {
		defer removeTree(disk{}, dir)
	}
	received := map[int]*os.File{}
	defer func() {
		for _, f := range received {
			f.Close()
		}
	}()
	err = agree(ctx, s, func() error {
		if !receives {
			return nil
		}
		return l.createFiles(dir, plan, s.peers.Rank(), received)
	})
	if err != nil {
		return err
	}
	var failure error
	for batch := range slices.Chunk(plan, fetchChunks) {
		if err := s.ship(l, batch, received); errors.Is(err, errPeers) {
			return err
		} else if failure == nil {
			failure = err
		}
	}
	if err := agree(ctx, s, func() error { return failure }); err != nil {
		return err
	}
	return agree(ctx, s, func() (err error) {
		for file := range mine.Files {
			if l.files[file].file, err = os.Open(filepath.Join(dir, l.files[file].Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// lacking lists the chunks that parts need of files that are not open.
func (l *Loaded) lacking(parts []Part) (map[int][]int, error) {
	sets := map[int]map[int]bool{}
	for _, p := range parts {
		t, err := l.find(p)
		if err != nil {
			return nil, err
		}
		for _, piece := range t.pieces {
			f := l.files[piece.file]
			if f.file != nil {
				continue
			}
			for c := range shard.Overlap(p.Slice, piece.slice) {
				if sets[piece.file] == nil {
					sets[piece.file] = map[int]bool{}
				}
				from, to := piece.at+int64(p.bytes(c.From)), piece.at+int64(p.bytes(c.From+c.Len))
				for i := from / f.Chunk; i <= (to-1)/f.Chunk; i++ {
					sets[piece.file][int(i)] = true
				}
			}
		}
	}
	list := map[int][]int{}
	for file, set := range sets {
		list[file] = slices.Sorted(maps.Keys(set))
	}
	return list, nil
}

// leader returns the first rank of a place.
func leader(lacks []lack, place string) int {
	return slices.IndexFunc(lacks, func(w lack) bool { return w.Place == place })
}

// destinations returns which ranks each chunk goes to.
func destinations(lacks []lack) map[chunk][]int {
	to := map[chunk][]int{}
	for _, w := range lacks {
		first := leader(lacks, w.Place)
		for file, chunks := range w.Files {
			for _, i := range chunks {
				if c := (chunk{file, i}); !slices.Contains(to[c], first) {
					to[c] = append(to[c], first)
				}
			}
		}
	}
	return to
}

// planShipments finds out who has the files that others lack, and returns who sends which chunk, the same on all ranks.
func (s *Store) planShipments(ctx context.Context, l *Loaded, to map[chunk][]int) ([]shipment, error) {
	lacked := map[int]bool{}
	for c := range to {
		lacked[c.file] = true
	}
	have, err := together(ctx, s, func(context.Context) (files []int, err error) {
		for file := range lacked {
			if l.files[file].file != nil {
				files = append(files, file)
			}
		}
		return files, nil
	})
	if err != nil {
		return nil, err
	}
	holders := map[int][]int{}
	for rank, files := range have {
		for _, file := range files {
			holders[file] = append(holders[file], rank)
		}
	}
	var missing []string
	for _, file := range slices.Sorted(maps.Keys(lacked)) {
		if len(holders[file]) == 0 {
			missing = append(missing, l.files[file].Name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s: missing on all hosts of this job; start it on those that have them, or copy them here", strings.Join(missing, ", "))
	}
	var plan []shipment
	for c, ranks := range to {
		plan = append(plan, shipment{c, holders[c.file][c.index%len(holders[c.file])], ranks})
	}
	slices.SortFunc(plan, func(a, b shipment) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.index, b.index)) })
	return plan, nil
}

// createFiles makes sparse files for what rank me receives.
func (l *Loaded) createFiles(dir string, plan []shipment, me int, received map[int]*os.File) error {
	if err := removeTree(disk{}, dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, p := range plan {
		if received[p.file] != nil || !slices.Contains(p.to, me) {
			continue
		}
		f, err := os.Create(filepath.Join(dir, l.files[p.file].Name))
		if err != nil {
			return err
		}
		received[p.file] = f
		if err := f.Truncate(l.files[p.file].Size); err != nil {
			return err
		}
	}
	return nil
}

// ship sends and receives some chunks. What this rank cannot read, it sends as zeros, which the others will find damaged, so that
// nobody waits for it.
func (s *Store) ship(l *Loaded, batch []shipment, received map[int]*os.File) error {
	var transfers []Transfer
	var arrivals []func() error
	var failure error
	me := s.peers.Rank()
	for _, p := range batch {
		receives := slices.Contains(p.to, me)
		if p.from != me && !receives {
			continue
		}
		f := l.files[p.file]
		at := int64(p.index) * f.Chunk
		data := make([]byte, min(f.Chunk, f.Size-at))
		if receives {
			transfers = append(transfers, Transfer{Peer: p.from, Data: data, Receive: true})
			arrivals = append(arrivals, func() error { _, err := received[p.file].WriteAt(data, at); return err })
			continue
		}
		if _, err := f.file.ReadAt(data, at); err != nil {
			failure = errors.Join(failure, err)
		}
		for _, rank := range p.to {
			transfers = append(transfers, Transfer{Peer: rank, Data: data})
		}
	}
	if len(transfers) == 0 {
		return nil
	}
	if err := s.peers.Exchange(transfers); err != nil {
		return fmt.Errorf("%w: %w", errPeers, err)
	}
	for _, write := range arrivals {
		failure = errors.Join(failure, write())
	}
	return failure
}
