package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"lockstep/collective"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/config"
	"lockstep/spmd/generate"
	"lockstep/spmd/model"
	"lockstep/spmd/monitor"
	"lockstep/spmd/train"
)

// load reads the configuration and prints everything that is wrong with it.
func (p *program) load(path string, overrides []string, world int) (*config.Config, config.LoadOptions, error) {
	o := config.LoadOptions{Path: path, Overrides: overrides, World: world, Getenv: p.getenv, Goroot: p.goroot}
	c, problems := config.Load(o)
	if len(problems) > 0 {
		fmt.Fprintln(p.stderr, strings.TrimRight(problems.String(), "\n"))
		return nil, o, errReported
	}
	return c, o, nil
}

// train is one rank of a run. The first signal asks it to finish the step and write a checkpoint, a second one ends it.
func (p *program) train(path string, overrides []string) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	context.AfterFunc(ctx, cancel) // signals have their usual effect again
	place, err := p.place()
	if err != nil {
		return err
	}
	watchLifeline(place.LifelineFD)
	c, load, err := p.load(path, overrides, place.Size)
	if err != nil {
		return err
	}
	dev, err := cpu.New(cpu.Options{Threads: threads(c.Device.Threads, place), BFloat16: c.Train.Activations() == device.BFloat16})
	if err != nil {
		return err
	}
	if place.Size > 1 && threads(c.Device.Threads, place) == 1 {
		runtime.GOMAXPROCS(runtime.NumCPU() + besides)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	layout, err := train.NewLayout(dev, c, place.Rank, place.Size)
	if err != nil {
		return err
	}
	console := monitor.NewConsole(p.stdout, monitor.ConsoleOptions{Interval: c.Monitor.LogInterval, Width: p.columns(place)})
	log, err := openLog(c, place, console)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.close(err)) }()
	run := rank{program: p, config: c, load: load, place: place, device: dev, layout: layout, console: console, log: log.Logger}
	if err = run.join(ctx); err != nil {
		if ctx.Err() != nil {
			log.Info("stopped before the first step")
			return nil
		}
		return err
	}
	if err = run.train(ctx); err != nil {
		run.world.Abort(err)
	}
	return errors.Join(err, run.leave())
}

// besides is how many goroutines of a rank that computes with one thread may run besides that one: those of its groups. Where it is bound to
// its core, Go's scheduler would have them wait for up to 10 milliseconds until it makes room; the operating system's interrupts it at
// once when data arrives. Several threads that compute would lose more to each other than their groups gain, see docs/log.md.
const besides = 4

// threads returns the number of threads of a rank: as configured, the cores that it is bound to, or a fair share of the host's.
func threads(configured int, place collective.Place) int {
	switch {
	case configured > 0:
		return configured
	case place.Cores > 0:
		return place.Cores
	}
	return max(1, runtime.NumCPU()/place.LocalSize)
}

// Ranks exchange gradients in place only in memory that the device can map.
var _ collective.FileAllocator = (*cpu.Device)(nil)

// A rankLog is a rank's own log: a file and, on rank 0, the console as well.
type rankLog struct {
	*slog.Logger
	file *os.File
}

// openLog makes output_dir and the rank's log in it.
func openLog(c *config.Config, place collective.Place, console *monitor.Console) (*rankLog, error) {
	dir := filepath.Join(c.Run.OutputDir, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("run.output_dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("rank-%05d.log", place.Rank)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("run.output_dir: %w", err)
	}
	var handler slog.Handler = slog.NewTextHandler(f, nil)
	if place.Rank == 0 {
		handler = slog.NewMultiHandler(handler, newConsoleHandler(console))
	}
	return &rankLog{slog.New(handler), f}, nil
}

// close ends the log, after the error, if any, that ended the rank. Main prints the error, so it goes to the file alone.
func (l *rankLog) close(failure error) error {
	if failure != nil {
		slog.New(slog.NewTextHandler(l.file, nil)).Error("this rank failed", "reason", failure)
	}
	return l.file.Close()
}

// A rank is one process of a run, with everything it has opened.
type rank struct {
	*program
	membership
	config  *config.Config
	load    config.LoadOptions
	place   collective.Place
	device  *cpu.Device
	layout  *train.Layout
	console *monitor.Console
	log     *slog.Logger
}

// train runs the configuration from its start or its last checkpoint to its end.
func (r *rank) train(ctx context.Context) (err error) {
	if r.place.Rank == 0 {
		r.describe()
	}
	t, err := train.New(r.layout, train.Options{Load: r.load, Device: r.device, World: r.world, Threads: threads(r.config.Device.Threads, r.place),
		Stream: r.device.NewInlineStream("compute"), Beside: r.device.NewInlineStream("other micro batches"),
		SumFloat32: cpu.SumFloat32, SumBFloat16: cpu.SumBFloat16, SumFloat64: cpu.SumFloat64, Log: r.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if r.place.Rank != 0 {
		err := t.Run(ctx)
		r.report()
		return err
	}
	t.DescribeData(r.console)
	if err := os.WriteFile(filepath.Join(r.config.Run.OutputDir, "config.resolved.toml"), r.config.Resolved(), 0o644); err != nil {
		return err
	}
	metrics, err := monitor.OpenJSONL(filepath.Join(r.config.Run.OutputDir, "metrics.jsonl"))
	if err != nil {
		return err
	}
	t.Sink = monitor.Sinks{metrics, r.console}
	if err := errors.Join(t.Run(ctx), t.Sink.Close()); err != nil {
		return err
	}
	r.report()
	if t.Done() {
		return r.sample(t.Stream)
	}
	return nil
}

// describe prints what the run comes to.
func (r *rank) describe() {
	for _, note := range r.config.Notes {
		fmt.Fprintln(r.console, "note:", note)
	}
	fmt.Fprintf(r.console, "%-11s%s\n", "device", r.device.Name())
	r.layout.Describe(r.console)
}

// sample prints what the trained model makes of monitor.sample_prompt.
func (r *rank) sample(stream device.Stream) error {
	m := r.config.Monitor
	t := r.config.Tokenizer
	if m.SampleTokens == 0 || t == nil {
		return nil
	}
	trained, err := r.trained(stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.stdout, "\nThe model's %d tokens after %q:\n\n%s", m.SampleTokens, m.SamplePrompt, m.SamplePrompt)
	err = generate.Text(r.stdout, trained, r.device, stream, t, t.EncodeSpecial(nil, m.SamplePrompt),
		generate.Options{Tokens: m.SampleTokens, Temperature: 0.7, TopK: 40, Seed: r.config.Run.Seed, EOD: t.EOD(),
			Vocabulary: t.VocabSize()})
	fmt.Fprintln(r.stdout)
	return err
}

// trained returns the trained model: this rank's or, where other ranks hold parts of it, what has been written of it.
func (r *rank) trained(stream device.Stream) (*model.Model, error) {
	if r.layout.HoldsModel() {
		return r.layout.Model, nil
	}
	source, err := r.openSource(sourceOptions{path: r.layout.ModelDir(), merge: true})
	if err != nil {
		return nil, err
	}
	m, err := source.load(r.device, stream)
	return m, errors.Join(err, source.Close())
}
