package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"

	"lockstep/kernels/cpu"
	"lockstep/spmd/pipeline"
	"lockstep/spmd/plan"
)

const planUsage = `spmd plan says what a configuration comes to on N ranks: memory, traffic, computation and idle time of each. It starts nothing.

  spmd plan CONFIG.toml -n N [options] [section.key=value ...]

  -n N          the number of ranks
  --schedule    print what each rank of the pipeline does in a step, a line for each
  --svg FILE    draw it
  --csv FILE    write the schedule as a table that parallel.pipeline_schedule reads, to make one's own from
`

// planOptions are those of spmd plan.
type planOptions struct {
	ranks    int
	schedule bool
	svg, csv string
	path     string
	override []string
}

func parsePlan(args []string) (o planOptions, err error) {
	f := flag.NewFlagSet("plan", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.ranks, "n", 0, "")
	f.BoolVar(&o.schedule, "schedule", false, "")
	f.StringVar(&o.svg, "svg", "", "")
	f.StringVar(&o.csv, "csv", "", "")
	for rest := args; ; {
		if err := f.Parse(rest); err != nil {
			return o, &usageError{fmt.Sprintf("plan: %v; see spmd plan --help", err)}
		}
		if f.NArg() == 0 {
			break
		}
		if o.path == "" {
			o.path = f.Arg(0)
		} else {
			o.override = append(o.override, f.Arg(0))
		}
		rest = f.Args()[1:]
	}
	if o.path == "" || o.ranks < 1 {
		return o, &usageError{"usage: spmd plan CONFIG.toml -n N [--schedule] [--svg FILE] [--csv FILE] [section.key=value ...]"}
	}
	return o, nil
}

// plan prints what a configuration comes to.
func (p *program) plan(args []string) error {
	for _, a := range args {
		if a == "-h" || a == "--help" {
			_, err := io.WriteString(p.stdout, planUsage)
			return err
		}
	}
	o, err := parsePlan(args)
	if err != nil {
		return err
	}
	c, _, err := p.load(o.path, o.override, o.ranks)
	if err != nil {
		return err
	}
	dev, err := cpu.New(cpu.Options{Threads: c.Device.Threads})
	if err != nil {
		return err
	}
	defer dev.Close()
	planned, err := plan.New(dev, c, o.ranks)
	if err != nil {
		return err
	}
	rate, err := plan.Rate(dev, dev.NewInlineStream("plan"))
	if err != nil {
		return err
	}
	for _, note := range c.Notes {
		fmt.Fprintln(p.stdout, "note:", note)
	}
	if err := planned.Write(p.stdout, rate); err != nil {
		return err
	}
	title := fmt.Sprintf("%s, %d stages, %d micro batches", c.Parallel.PipelineSchedule, c.Parallel.Pipeline, planned.Stages[0].MyMicroBatches)
	return p.drawSchedule(o, planned.Stages[0].Pipeline(), title)
}

// drawSchedule prints and writes the schedule as the options say.
func (p *program) drawSchedule(o planOptions, t pipeline.Timeline, title string) error {
	if o.schedule {
		fmt.Fprintln(p.stdout)
		if err := t.Text(p.stdout); err != nil {
			return err
		}
	}
	for _, file := range []struct {
		path  string
		write func(io.Writer) error
	}{{o.svg, func(w io.Writer) error { return t.SVG(w, title) }}, {o.csv, t.Schedule.WriteCSV}} {
		if file.path == "" {
			continue
		}
		var text bytes.Buffer
		if err := file.write(&text); err != nil {
			return err
		}
		if err := os.WriteFile(file.path, text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
