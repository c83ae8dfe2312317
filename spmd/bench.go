package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/collective"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/bench"
)

const benchUsage = `usage: launch -n N ./spmd bench collective [options]
       spmd bench collective --plan --ranks N [--hosts H] [options]

Measures the collectives between the ranks: each operation is checked, then timed between barriers. The times are each rank's
median; the table has the smallest, the middle and the largest of them. With --plan it prints what the cost model expects of
each algorithm, the one that would be taken first (*), and measures nothing.

  --operations A,B,...  of all-reduce, reduce-scatter, all-gather, all-gather-v, broadcast, reduce, scatter, gather,
                        all-to-all, all-to-all-v, send-receive, exchange, barrier (all)
  --sizes A,B,...       of the buffer, such as 1KiB,64KiB,8MiB (1KiB,64KiB,1MiB)
  --iterations N        how often each is timed; 0: as often as moves 64 MiB, 5 to 200 times (0)
  --dtype T             float32 or bfloat16 (float32)
  --reduce OP           sum, max or min (sum)
  --backend B           auto, tcp or shm, as collective.backend (auto)
  --tls                 put the connections between ranks inside TLS 1.3, as collective.tls does
  --algorithm A         auto, direct, doubling, halving, ring, tree, pairwise or two-level, for operations that have it (auto)
  --any-order           let sums have another order than the aligned tree
  --groups N            cut the ranks into N groups, by rank modulo N, which all work at once (1)
  --private             buffers in memory of the rank's own, not in that of the host's ranks
  --timeout D           how long a rank waits for its peers (60s)
  --json                one JSON object per line instead of the table
`

// benchOptions are the options of spmd bench collective.
type benchOptions struct {
	bench.Options
	world        collective.Options
	plan, json   bool
	ranks, hosts int // of --plan
}

// bench runs a benchmark; there is one.
func (p *program) bench(args []string) error {
	if len(args) == 0 || args[0] != "collective" {
		return &usageError{"bench wants to know what: spmd bench collective; see spmd bench collective --help"}
	}
	o, err := p.parseBench(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case o.plan:
		return p.printPlan(o)
	}
	return p.benchCollective(o)
}

func (p *program) parseBench(args []string) (o benchOptions, err error) {
	var operations, sizes, dtype, reduce, algorithm string
	var private bool
	flags := flag.NewFlagSet("bench collective", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() { fmt.Fprint(p.stderr, benchUsage) }
	flags.StringVar(&operations, "operations", strings.Join(bench.Operations(), ","), "")
	flags.StringVar(&sizes, "sizes", "1KiB,64KiB,1MiB", "")
	flags.StringVar(&dtype, "dtype", "float32", "")
	flags.StringVar(&reduce, "reduce", "sum", "")
	flags.StringVar(&algorithm, "algorithm", "auto", "")
	flags.StringVar(&o.world.Backend, "backend", "auto", "")
	flags.BoolVar(&o.world.TLS, "tls", false, "")
	flags.BoolVar(&o.world.AnyOrder, "any-order", false, "")
	flags.DurationVar(&o.world.Timeout, "timeout", time.Minute, "")
	flags.IntVar(&o.Iterations, "iterations", 0, "")
	flags.IntVar(&o.Groups, "groups", 1, "")
	flags.BoolVar(&private, "private", false, "")
	flags.BoolVar(&o.json, "json", false, "")
	flags.BoolVar(&o.plan, "plan", false, "")
	flags.IntVar(&o.ranks, "ranks", 0, "")
	flags.IntVar(&o.hosts, "hosts", 1, "")
	if err := flags.Parse(args); err != nil {
		return o, errors.Join(errReported, err)
	}
	o.Operations, o.Symmetric = strings.Split(operations, ","), !private
	err = o.parse(sizes, dtype, reduce, algorithm)
	switch {
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("%q is no option", flags.Arg(0))
	case o.Iterations < 0 || o.Groups < 1 || o.world.Timeout <= 0 || o.hosts < 1:
		err = errors.New("--iterations wants a number from 0 on, --groups and --hosts from 1 on, --timeout a time above 0")
	case !slices.Contains([]string{collective.BackendAuto, collective.BackendTCP, collective.BackendShm}, o.world.Backend):
		err = fmt.Errorf("--backend %s: there are auto, tcp and shm", o.world.Backend)
	case o.plan != (o.ranks > 0):
		err = errors.New("--plan and --ranks go together")
	}
	if err != nil {
		return o, &usageError{err.Error() + "; see spmd bench collective --help"}
	}
	return o, nil
}

// parse reads what is more than a number.
func (o *benchOptions) parse(sizes, dtype, reduce, algorithm string) (err error) {
	for _, name := range o.Operations {
		if !slices.Contains(bench.Operations(), name) {
			return fmt.Errorf("--operations %s: there are %s", name, strings.Join(bench.Operations(), ", "))
		}
	}
	for text := range strings.SplitSeq(sizes, ",") {
		n, err := parseBufferSize(text)
		if err != nil {
			return fmt.Errorf("--sizes: %w", err)
		}
		o.Sizes = append(o.Sizes, n)
	}
	types := map[string]device.DType{"float32": device.Float32, "bfloat16": device.BFloat16}
	reductions := map[string]collective.ReduceOp{"sum": collective.Sum, "max": collective.Max, "min": collective.Min}
	var known, sums bool
	if o.DType, known = types[dtype]; !known {
		return fmt.Errorf("--dtype %s: there are float32 and bfloat16", dtype)
	}
	if o.Reduce, sums = reductions[reduce]; !sums {
		return fmt.Errorf("--reduce %s: there are sum, max and min", reduce)
	}
	o.Folds = map[device.DType]map[collective.ReduceOp]func(dst, src [][]byte){
		device.Float32:  {collective.Sum: cpu.SumFloat32, collective.Max: cpu.MaxFloat32, collective.Min: cpu.MinFloat32},
		device.BFloat16: {collective.Sum: cpu.SumBFloat16, collective.Max: cpu.MaxBFloat16, collective.Min: cpu.MinBFloat16},
	}
	o.world.Algorithm, err = collective.ParseAlgorithm(algorithm)
	return err
}

// parseBufferSize reads a number of bytes such as 64KiB.
func parseBufferSize(text string) (int, error) {
	number, shift := text, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			number, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 1<<34>>shift {
		return 0, fmt.Errorf("%q is no size from 1 byte to 16GiB, such as 4096, 64KiB or 8MiB", text)
	}
	return n << shift, nil
}

func (p *program) printPlan(o benchOptions) error {
	lines, err := bench.Plan(o.Operations, o.Sizes, collective.Case{
		Members: o.ranks, Hosts: o.hosts, Memory: o.world.Backend != collective.BackendTCP, AnyOrder: o.world.AnyOrder,
	})
	if err != nil {
		return &usageError{err.Error()}
	}
	fmt.Fprintf(p.stdout, "%d ranks on %d hosts\n%s\n%s\n", o.ranks, o.hosts, bench.PlanHeader, strings.Join(lines, "\n"))
	return nil
}

// benchCollective is one rank of a measurement.
func (p *program) benchCollective(o benchOptions) (err error) {
	place, err := p.place()
	if err != nil {
		return err
	}
	watchLifeline(place.LifelineFD)
	dev, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	o.world.NewStream, o.world.Log, o.Device = dev.NewStream, slog.New(newConsoleHandler(p.stderr)), dev
	o.world.Facts = map[string]string{"version": version, "options": fmt.Sprint(o.Operations, o.Sizes, o.Iterations, o.Groups, o.world.Algorithm, o.DType)}
	ctx := context.Background()
	m, err := p.enter(ctx, place, o.world)
	if err != nil {
		return err
	}
	if m.world.Rank() == 0 && !o.json {
		fmt.Fprintf(p.stdout, "%d ranks, %s, backend %s, algorithm %v\n%s\n", m.world.Size(), dev.Name(), o.world.Backend, o.world.Algorithm, bench.Header)
	}
	if err = bench.Run(ctx, m.world, o.Options, p.reporter(o.json)); err != nil {
		m.world.Abort(err)
	}
	return errors.Join(err, m.leave())
}

// reporter returns what prints a row.
func (p *program) reporter(asJSON bool) func(bench.Row) {
	if !asJSON {
		return func(r bench.Row) { fmt.Fprintln(p.stdout, r) }
	}
	lines := json.NewEncoder(p.stdout)
	return func(r bench.Row) {
		// A row has nothing that JSON cannot hold; what is lost when nobody reads is lost as in the table.
		_ = lines.Encode(r)
	}
}
