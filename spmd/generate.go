package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"runtime"

	"lockstep/kernels"
	"lockstep/kernels/cpu"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/generate"
	"lockstep/spmd/model"
)

const generateUsage = `usage: spmd generate MODEL_DIR --prompt TEXT [options]

MODEL_DIR is a Hugging Face directory with its tokenizer.json, such as OUTPUT_DIR/model of a run.

  --prompt TEXT        the text to go on from (empty: from the start of a document)
  --tokens N           at most N tokens (200)
  --temperature X      how much chance has its way; 0 takes the likeliest token (0.7)
  --top-k K            choose among the K likeliest tokens only; 0 among all (40)
  --seed N             the same seed gives the same text (42)
  --threads N          threads to use; 0 means all cores (0)
`

// generateOptions are the options of spmd generate.
type generateOptions struct {
	dir, prompt string
	threads     int
	sampling    generate.Options
}

// parseGenerate reads the command line; the directory may stand before or after the options.
func (p *program) parseGenerate(args []string) (o generateOptions, err error) {
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() { fmt.Fprint(p.stderr, generateUsage) }
	flags.StringVar(&o.prompt, "prompt", "", "")
	flags.IntVar(&o.sampling.Tokens, "tokens", 200, "")
	flags.Float64Var(&o.sampling.Temperature, "temperature", 0.7, "")
	flags.IntVar(&o.sampling.TopK, "top-k", 40, "")
	flags.Uint64Var(&o.sampling.Seed, "seed", 42, "")
	flags.IntVar(&o.threads, "threads", 0, "")
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return o, errors.Join(errReported, err)
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		if o.dir != "" {
			return o, &usageError{fmt.Sprintf("%s and %s: give one model directory", o.dir, args[0])}
		}
		o.dir, args = args[0], args[1:]
	}
	switch s := o.sampling; {
	case o.dir == "":
		return o, &usageError{"generate wants a model directory; see spmd generate --help"}
	case s.Tokens < 1, s.TopK < 0, o.threads < 0:
		return o, &usageError{"--tokens wants a positive number, --top-k and --threads none below 0"}
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return o, &usageError{"--temperature wants a number from 0 on"}
	}
	return o, nil
}

// generate prints the prompt and its continuation.
func (p *program) generate(args []string) (err error) {
	o, err := p.parseGenerate(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	tok, err := tokenizer.Open(o.dir)
	if err != nil {
		return err
	}
	o.sampling.EOD, o.sampling.Vocabulary = tok.EOD(), tok.VocabSize()
	if o.sampling.Stop, err = generate.StopTokens(o.dir); err != nil {
		return err
	}
	if o.threads == 0 {
		o.threads = runtime.NumCPU()
	}
	dev, err := cpu.New(cpu.Options{Threads: o.threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	stream := dev.NewInlineStream("compute")
	m, err := openModel(o.dir, dev, stream)
	if err != nil {
		return err
	}
	fmt.Fprint(p.stdout, o.prompt)
	err = generate.Text(p.stdout, m, dev, stream, tok, o.prompt, o.sampling)
	fmt.Fprintln(p.stdout)
	return err
}

// openModel loads a Hugging Face directory into the device's memory.
func openModel(dir string, dev kernels.Device, s device.Stream) (*model.Model, error) {
	c, problems := model.ReadConfig(dir, nil)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, problem := range problems {
			errs[i] = errors.New(problem.String())
		}
		return nil, errors.Join(errs...)
	}
	weights, err := checkpoint.OpenWeights(dir)
	if err != nil {
		return nil, err
	}
	defer weights.Close()
	m := model.New(c)
	if _, err := m.CheckWeights(weights); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	storage, err := dev.Alloc(m.WeightElements() * device.Float32.Size())
	if err != nil {
		return nil, err
	}
	if err := m.Bind(kernels.NewTensor(storage, 0, device.Float32, m.WeightElements()), kernels.Tensor{}); err != nil {
		return nil, err
	}
	if err := m.Initialize(dev, s, weights, 0); err != nil {
		return nil, err
	}
	return m, s.Synchronize()
}
