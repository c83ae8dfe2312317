package pipeline

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Limits of a schedule in a file: far beyond what anyone runs, and small enough to hold.
const (
	maxFileBytes = 64 << 20
	maxFileRanks = 4096
	maxNumber    = 1 << 20 // of a chunk, of a micro batch
)

// overlapped ends a cell with a forward and a backward pass that run together.
const overlapped = ")OVERLAP_F_B"

// ReadCSV reads a schedule as torch.distributed.pipelining writes it (the compute-only form): a row for each rank, and in it a cell for
// each action, such as 0F0, 3I1, 3W1, 2B0, or (4F2;1B0)OVERLAP_F_B. Empty cells, where a rank idles, are passed over. Errors name the
// file, the row and the column, counted from 1.
func ReadCSV(path string) (Schedule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := parseCSV(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parseCSV(from io.Reader) (Schedule, error) {
	r := csv.NewReader(from)
	r.FieldsPerRecord, r.ReuseRecord, r.TrimLeadingSpace = -1, true, true
	var s Schedule
	for {
		cells, err := r.Read()
		switch {
		case err == io.EOF && len(s) == 0:
			return nil, errors.New("it has no row; give each rank one")
		case err == io.EOF:
			return s, nil
		case err != nil:
			return nil, err
		case r.InputOffset() > maxFileBytes:
			return nil, fmt.Errorf("it is larger than %d MiB", maxFileBytes>>20)
		case len(s) == maxFileRanks:
			return nil, fmt.Errorf("it has more than %d rows", maxFileRanks)
		}
		var list []Action
		for i, cell := range cells {
			if list, err = appendCell(list, strings.TrimSpace(cell)); err != nil {
				return nil, fmt.Errorf("row %d, column %d: %w", len(s)+1, i+1, err)
			}
		}
		s = append(s, list)
	}
}

// appendCell appends the actions of a cell: none, one, or two that run together.
func appendCell(list []Action, cell string) ([]Action, error) {
	if cell == "" {
		return list, nil
	}
	if inner, ok := strings.CutSuffix(cell, overlapped); ok && strings.HasPrefix(inner, "(") {
		first, second, ok := strings.Cut(inner[1:], ";")
		f, err := parseAction(strings.TrimSpace(first))
		if err != nil {
			return nil, err
		}
		b, err := parseAction(strings.TrimSpace(second))
		if err != nil {
			return nil, err
		}
		if !ok || f.Kind != Forward || b.Kind != Backward {
			return nil, fmt.Errorf("%q is not a forward and a whole backward pass; write (4F2;1B0)OVERLAP_F_B", clip(cell))
		}
		f.Overlapped = true
		return append(list, f, b), nil
	}
	a, err := parseAction(cell)
	return append(list, a), err
}

// parseAction reads a cell such as 3F0.
func parseAction(text string) (Action, error) {
	at := strings.IndexFunc(text, func(c rune) bool { return c < '0' || c > '9' })
	if at < 1 {
		return Action{}, fmt.Errorf("%q is no action; write chunk, pass and micro batch, such as 3F0", clip(text))
	}
	end := at + strings.IndexFunc(text[at:], func(c rune) bool { return '0' <= c && c <= '9' })
	if end < at {
		end = len(text)
	}
	kind := strings.Index("FBIW", text[at:end])
	if kind < 0 || end-at != 1 {
		return Action{}, fmt.Errorf("%q has a pass other than F, B, I or W; leave transfers and the handling of parameters out, they follow from the passes", clip(text))
	}
	chunk, err := strconv.Atoi(text[:at])
	microBatch, err2 := strconv.Atoi(text[end:])
	if err != nil || err2 != nil || chunk > maxNumber || microBatch > maxNumber {
		return Action{}, fmt.Errorf("%q does not have a chunk and a micro batch up to %d", clip(text), maxNumber)
	}
	return Action{Kind: Kind(kind), MicroBatch: microBatch, Chunk: chunk}, nil
}

// clip shortens a cell for a message.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// WriteCSV writes the schedule in the form that ReadCSV reads.
func (s Schedule) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	for _, list := range s {
		var cells []string
		for i := 0; i < len(list); i++ {
			if list[i].Overlapped && i+1 < len(list) {
				cells = append(cells, fmt.Sprintf("(%v;%v%s", list[i], list[i+1], overlapped))
				i++
				continue
			}
			cells = append(cells, list[i].String())
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
