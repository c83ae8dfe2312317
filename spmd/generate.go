package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"runtime"

	"lockstep/kernels/cpu"
	"lockstep/spmd/generate"
)

const generateUsage = `usage: spmd generate MODEL --prompt TEXT [options]
       spmd generate MODEL --chat --prompt TEXT | --messages FILE [options]

MODEL is a Hugging Face directory with its tokenizer.json, such as OUTPUT_DIR/model of a run, a LoRA adapter as PEFT has it, such as
OUTPUT_DIR/adapter, a checkpoint (RUN/checkpoints/step-00000100 or RUN/checkpoints/latest), or the output directory of a run, whose
newest sound checkpoint is taken.

  --prompt TEXT        the text to go on from (empty: from the start of a document)
  --chat               the prompt is what a user says to the model: it goes through the model's chat template
  --messages FILE      answer a conversation: JSON with messages, or with turns as in the data for training
  --chat-template FILE another template than the model's own
  --base DIR           the model that an adapter belongs to (where the adapter says that it is)
  --tokens N           at most N tokens (200)
  --temperature X      how much chance has its way; 0 takes the likeliest token (0.7)
  --top-k K            choose among the K likeliest tokens only; 0 among all (40)
  --top-p P            choose among the likeliest tokens only that together have the probability P; 1 among all (1)
  --seed N             the same seed gives the same text (42)
  --threads N          threads to use; 0 means all cores (0)
`

// generateOptions are the options of spmd generate.
type generateOptions struct {
	dir, base string
	prompt    prompt
	threads   int
	sampling  generate.Options
}

// parseGenerate reads the command line; the directory may stand before or after the options.
func (p *program) parseGenerate(args []string) (o generateOptions, err error) {
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() { fmt.Fprint(p.stderr, generateUsage) }
	flags.StringVar(&o.prompt.text, "prompt", "", "")
	flags.BoolVar(&o.prompt.chat, "chat", false, "")
	flags.StringVar(&o.prompt.messages, "messages", "", "")
	flags.StringVar(&o.prompt.template, "chat-template", "", "")
	flags.StringVar(&o.base, "base", "", "")
	flags.IntVar(&o.sampling.Tokens, "tokens", 200, "")
	flags.Float64Var(&o.sampling.Temperature, "temperature", 0.7, "")
	flags.IntVar(&o.sampling.TopK, "top-k", 40, "")
	flags.Float64Var(&o.sampling.TopP, "top-p", 1, "")
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
			return o, &usageError{fmt.Sprintf("%s and %s: give one model", o.dir, args[0])}
		}
		o.dir, args = args[0], args[1:]
	}
	switch s := o.sampling; {
	case o.dir == "":
		return o, &usageError{"generate wants a model; see spmd generate --help"}
	case s.Tokens < 1, s.TopK < 0, o.threads < 0:
		return o, &usageError{"--tokens wants a positive number, --top-k and --threads none below 0"}
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return o, &usageError{"--temperature wants a number from 0 on"}
	case !(s.TopP > 0 && s.TopP <= 1):
		return o, &usageError{"--top-p wants a probability, above 0 and at most 1"}
	}
	err = o.prompt.check()
	return o, err
}

// generate prints the prompt and its continuation, of a conversation the model's answer alone.
func (p *program) generate(args []string) (err error) {
	o, err := p.parseGenerate(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	source, err := p.openGenerateSource(o.dir, o.base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	tok, dir, err := source.tokenizer()
	if err != nil {
		return err
	}
	o.sampling.EOD, o.sampling.Vocabulary = tok.EOD(), tok.VocabSize()
	if o.sampling.Stop, err = generate.StopTokens(dir); err != nil {
		return err
	}
	if o.prompt.template == "" && source.run != "" {
		o.prompt.template = source.settings().Data.ChatTemplate
	}
	tokens, err := o.prompt.tokens(dir, tok)
	if err != nil {
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
	m, err := source.load(dev, stream)
	if err != nil {
		return err
	}
	if !o.prompt.chat {
		fmt.Fprint(p.stdout, o.prompt.text)
	}
	err = generate.Text(p.stdout, m, dev, stream, tok, tokens, o.sampling)
	fmt.Fprintln(p.stdout)
	return err
}
