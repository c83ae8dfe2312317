// Package bench measures the collectives of a job, as the OSU micro-benchmarks measure MPI's: for each operation and size
// the time of a call, between barriers, on every rank.
//
// Before an operation is timed its result is checked: buffers hold small whole numbers, whose sums are exact in every type
// and order.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/collective"
	"lockstep/kernels/device"
)

// Options say what is measured.
type Options struct {
	// Operations are names of Operations().
	Operations []string
	// Sizes are the buffers' sizes in bytes, all parts together.
	Sizes []int
	// DType is that of the elements: device.Float32 or device.BFloat16.
	DType device.DType
	// Reduce is what reductions do.
	Reduce collective.ReduceOp
	// Folds are the arithmetic of reductions, by type and operation.
	Folds map[device.DType]map[collective.ReduceOp]func(dst, src [][]byte)
	// Iterations is how often each operation is timed; 0 means as often as moves about 64 MiB, from 5 to 200 times.
	Iterations int
	// Groups is the number of groups that the ranks are cut into, by rank modulo Groups, which all work at the same time.
	Groups int
	// Symmetric says whether buffers lie in the ranks' common memory, where there is one.
	Symmetric bool
	Device    device.Device
}

// A Row is the result for one operation and size. Times are in microseconds: each rank's median over the iterations, of
// which the smallest, the middle and the largest are given.
type Row struct {
	Operation  string  `json:"operation"`
	Bytes      int     `json:"bytes"`
	Ranks      int     `json:"ranks"`
	Groups     int     `json:"groups"`
	DType      string  `json:"dtype"`
	Iterations int     `json:"iterations"`
	MinUS      float64 `json:"min_us"`
	MedianUS   float64 `json:"median_us"`
	MaxUS      float64 `json:"max_us"`
	// GBs is the buffer's size over the median time, in 10^9 bytes per second.
	GBs float64 `json:"gb_per_s"`
}

// warmups is how often an operation runs before it is timed, the check included.
const warmups = 3

// targetBytes is what a measurement moves, unless the iterations are given.
const targetBytes = 64 << 20

// iterations returns how often an operation of n bytes is timed.
func (o *Options) iterations(n int) int {
	if o.Iterations > 0 {
		return o.Iterations
	}
	return min(200, max(5, targetBytes/max(1, n)))
}

// Run measures as one rank of the world and calls report on rank 0 for each row. All ranks call it with the same options.
func Run(ctx context.Context, w *collective.World, o Options, report func(Row)) (err error) {
	everyone := make([]int, w.Size())
	for i := range everyone {
		everyone[i] = i
	}
	all, err := w.NewGroup("world", everyone)
	if err != nil {
		return err
	}
	stream, ok := o.Device.NewStream("bench").(device.DirectStream)
	if !ok {
		return errors.New("the device's memory cannot be filled by the host")
	}
	b := &bench{Options: o, all: all, group: all, stream: stream}
	if o.Groups > 1 {
		if b.group, err = all.Split(ctx, "bench", w.Rank()%o.Groups, w.Rank()); err != nil {
			return err
		}
	}
	if err := b.allocate(w); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.dst.Free(), b.src.Free()) }()
	for _, name := range o.Operations {
		op := operations[slices.IndexFunc(operations, func(op operation) bool { return op.name == name })]
		sizes := o.Sizes
		if op.start == nil {
			sizes = []int{0}
		}
		for _, size := range sizes {
			row, err := b.measure(ctx, op, size)
			if err != nil {
				return fmt.Errorf("%s of %d bytes: %w", name, size, err)
			}
			if w.Rank() == 0 {
				report(row)
			}
		}
	}
	return nil
}

// A bench is a rank's part of a measurement.
type bench struct {
	Options
	all, group collective.Group
	dst, src   *device.Storage
	pattern    []byte // what a buffer holds before an operation, its first patternElements
	read       []byte
	stream     device.DirectStream
}

// allocate takes the largest buffers that are needed.
func (b *bench) allocate(w *collective.World) (err error) {
	most := slices.Max(b.Sizes) + b.group.Size()*b.DType.Size()
	b.pattern, b.read = make([]byte, patternElements*b.DType.Size()), make([]byte, most)
	alloc := func(n int) (*device.Storage, error) { return w.Alloc(n, n, b.Device) }
	if !b.Symmetric {
		alloc = b.Device.Alloc
	}
	if b.dst, err = alloc(most); err != nil {
		return err
	}
	b.src, err = alloc(most)
	return err
}

// measure checks and times one operation.
func (b *bench) measure(ctx context.Context, op operation, size int) (Row, error) {
	c := b.newCall(op, size)
	n := b.iterations(size)
	times := make([]float64, 0, n)
	for i := range warmups + n {
		if err := b.stream.Run(c); err != nil {
			return Row{}, err
		}
		if err := b.all.Barrier(ctx); err != nil {
			return Row{}, err
		}
		start := time.Now()
		if err := c.perform(ctx); err != nil {
			return Row{}, err
		}
		elapsed := time.Since(start)
		if i == 0 {
			if err := c.check(b.Device, b.stream); err != nil {
				return Row{}, err
			}
		}
		if i >= warmups {
			times = append(times, float64(elapsed.Nanoseconds())/1e3)
		}
	}
	medians, err := b.gather(ctx, median(times))
	if err != nil {
		return Row{}, err
	}
	row := Row{
		Operation: op.name, Bytes: c.bytes(), Ranks: b.group.Size(), Groups: max(1, b.Groups), DType: b.DType.String(), Iterations: n,
		MinUS: slices.Min(medians), MedianUS: median(medians), MaxUS: slices.Max(medians),
	}
	row.GBs = float64(row.Bytes) / row.MedianUS / 1e3
	return row, nil
}

// gather returns every rank's number.
func (b *bench) gather(ctx context.Context, mine float64) ([]float64, error) {
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	parts, err := b.all.GatherBytes(ctx, text)
	if err != nil {
		return nil, err
	}
	numbers := make([]float64, len(parts))
	for i, part := range parts {
		if err := json.Unmarshal(part, &numbers[i]); err != nil {
			return nil, fmt.Errorf("the time of rank %d: %w", i, err)
		}
	}
	return numbers, nil
}

// median returns the middle of the numbers, the mean of the two in the middle where there are two.
func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// Header is the line above the rows that Row.String makes.
const Header = "operation            bytes  iterations      min us   median us      max us      GB/s"

// String makes a line of a table.
func (r Row) String() string {
	return fmt.Sprintf("%-15s %10d %11d %11.1f %11.1f %11.1f %9.3f", r.Operation, r.Bytes, r.Iterations, r.MinUS, r.MedianUS, r.MaxUS, r.GBs)
}

// Operations returns the names of what can be measured.
func Operations() []string {
	names := make([]string, len(operations))
	for i, op := range operations {
		names[i] = op.name
	}
	return names
}

// PlanHeader is the line above the lines of Plan.
const PlanHeader = "operation            bytes  algorithm    steps  messages       bytes sent       expected us"

// Plan returns what the cost model expects of every algorithm for the operations and sizes, as lines of a table: the algorithm
// that would be taken first. c says what the group is like.
func Plan(names []string, sizes []int, c collective.Case) ([]string, error) {
	var lines []string
	for _, name := range names {
		if name == "send-receive" || name == "exchange" {
			continue // there is one way
		}
		name = strings.TrimSuffix(name, "-v") // parts of other sizes change nothing
		for _, size := range sizes {
			if name == "barrier" {
				size = 0
			}
			c.Operation, c.Bytes = name, size
			estimates, err := collective.Estimates(c)
			if err != nil {
				return nil, err
			}
			for i, e := range estimates {
				mark := " "
				if i == 0 {
					mark = "*"
				}
				lines = append(lines, strings.TrimRight(fmt.Sprintf("%-15s %10d  %s%-10s %6d %9d %16d %17.1f", name, size, mark, e.Algorithm,
					e.Steps, e.Messages, e.Bytes, float64(e.Time.Nanoseconds())/1e3), " "))
			}
			if name == "barrier" {
				break
			}
		}
	}
	return lines, nil
}
