package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/mindspore"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/optim"
)

const exportUsage = `usage: spmd export SOURCE OUTPUT_DIR [options]

SOURCE is a checkpoint (RUN/checkpoints/step-00000100 or RUN/checkpoints/latest), the output directory of a run, whose newest
sound checkpoint is taken, a model directory, of Hugging Face or MindSpore, or a LoRA adapter as PEFT has it. OUTPUT_DIR becomes
a model directory or, of a checkpoint of LoRA without --merge, an adapter as PEFT has it.

  --format F           huggingface (safetensors), ckpt (MindSpore), mindspore (MindSpore's safetensors) (huggingface)
  --dtype T            float32, bfloat16 or float16 (as in the source)
  --names N            huggingface or mindformers: how MindSpore's formats call the weights (huggingface)
  --optimizer          write the optimizer's state too
  --ema                the average of a checkpoint's weights (optimizer.ema_decay) in place of the weights
  --merge              add the LoRA adapter to the weights
  --base DIR           the model that an adapter or frozen weights belong to (what the source says)
  --max-shard-size S   huggingface: the most bytes of a file, such as 500MB (5GB)
  --tokenizer DIR      take the tokenizer's files from there (the source's, or those of its run)
`

// exportOptions are the options of spmd export.
type exportOptions struct {
	source, output, format, dtype, names, shard, tokenizer, base string
	optimizer, merge, ema                                        bool

	shardBytes int
}

// dtypes are the values of --dtype.
var dtypes = map[string]safetensors.DType{"": "", "float32": safetensors.F32, "bfloat16": safetensors.BF16, "float16": safetensors.F16}

// formats are the values of --format.
var formats = map[string]checkpoint.Format{"huggingface": checkpoint.HuggingFace, "ckpt": checkpoint.Ckpt, "mindspore": checkpoint.MindSporeSafetensors}

// parseExport reads the command line; options may stand anywhere.
func (p *program) parseExport(args []string) (o exportOptions, err error) {
	flags := flag.NewFlagSet("export", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() { fmt.Fprint(p.stderr, exportUsage) }
	flags.StringVar(&o.format, "format", "huggingface", "")
	flags.StringVar(&o.dtype, "dtype", "", "")
	flags.StringVar(&o.names, "names", "huggingface", "")
	flags.BoolVar(&o.optimizer, "optimizer", false, "")
	flags.BoolVar(&o.ema, "ema", false, "")
	flags.StringVar(&o.shard, "max-shard-size", "5GB", "")
	flags.BoolVar(&o.merge, "merge", false, "")
	flags.StringVar(&o.base, "base", "", "")
	flags.StringVar(&o.tokenizer, "tokenizer", "", "")
	var paths []string
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return o, errors.Join(errReported, err)
		}
		if args = flags.Args(); len(args) > 0 {
			paths, args = append(paths, args[0]), args[1:]
		}
	}
	if len(paths) != 2 {
		return o, &usageError{fmt.Sprintf("export wants a source and an output directory, got %d paths; see spmd export --help", len(paths))}
	}
	o.source, o.output = filepath.Clean(paths[0]), filepath.Clean(paths[1])
	return o, o.check()
}

// check returns all mistakes on the command line that show before anything is opened.
func (o *exportOptions) check() error {
	var wrong []string
	if _, ok := formats[o.format]; !ok {
		wrong = append(wrong, fmt.Sprintf("--format %q is none; use huggingface, ckpt or mindspore", o.format))
	}
	if _, ok := dtypes[o.dtype]; !ok {
		wrong = append(wrong, fmt.Sprintf("--dtype %q is none; use float32, bfloat16 or float16", o.dtype))
	}
	switch {
	case o.names != "huggingface" && o.names != "mindformers":
		wrong = append(wrong, fmt.Sprintf("--names %q are none; use huggingface or mindformers", o.names))
	case o.names == "mindformers" && o.format == "huggingface":
		wrong = append(wrong, "--names mindformers is for MindSpore's formats; add --format ckpt or --format mindspore")
	}
	if o.merge && o.names == "mindformers" {
		wrong = append(wrong, "--merge does not go with --names mindformers; merge into a Hugging Face directory first, and export that")
	}
	if o.source == o.output {
		wrong = append(wrong, "SOURCE and OUTPUT_DIR are the same; give another directory to write to")
	}
	var err error
	if o.shardBytes, err = parseSize(o.shard); err != nil {
		wrong = append(wrong, "--max-shard-size "+err.Error())
	}
	if wrong != nil {
		return &usageError{strings.Join(wrong, "\nspmd: ")}
	}
	return nil
}

// parseSize reads a number of bytes, perhaps with KB, MB or GB, which are powers of 1000 as in Transformers.
func parseSize(text string) (int, error) {
	digits, factor := text, 1
	for unit, n := range map[string]int{"KB": 1e3, "MB": 1e6, "GB": 1e9} {
		if d, ok := strings.CutSuffix(strings.ToUpper(text), unit); ok {
			digits, factor = strings.TrimSpace(d), n
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > 1<<40/factor {
		return 0, fmt.Errorf("%q is no size; write it as 500MB or 5GB", text)
	}
	return n * factor, nil
}

// export writes a checkpoint or a model in another format.
func (p *program) export(args []string) (err error) {
	o, err := p.parseExport(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	source, err := p.openSource(sourceOptions{path: o.source, base: o.base, merge: o.merge, average: o.ema})
	if err != nil {
		return &usageError{err.Error()}
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	written, err := source.write(o)
	if err != nil {
		return err
	}
	bytes := 0
	for _, t := range written {
		n, _ := t.Size() // it has been written
		bytes += n
	}
	fmt.Fprintf(p.stdout, "%s: %d tensors, %.1f MB, of %s\n", o.output, len(written), float64(bytes)/1e6, source.what)
	return nil
}

// write writes the source as the options say, and returns the tensors.
func (s *modelSource) write(o exportOptions) (written []safetensors.Tensor, err error) {
	if s.adapter != nil && !o.merge {
		if o.format != "huggingface" || o.optimizer {
			return nil, &usageError{fmt.Sprintf("%s holds an adapter, which goes to PEFT's format without the optimizer's state; leave --format and --optimizer out, or merge it with --merge", s.what)}
		}
		written, err = s.adapter.save(o.output, dtypes[o.dtype])
		return written, occupied(err)
	}
	m, err := s.model(o)
	if err == nil {
		m.Files, err = s.files(o.tokenizer)
	}
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	if s.adapter != nil {
		done, err := s.adapter.merge(s.weights, m.Tensors)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return slices.Concat(m.Tensors, m.Optimizer), occupied(checkpoint.WriteModel(o.output, m))
}

// occupied makes an output directory that holds something else a mistake on the command line.
func occupied(err error) error {
	if errors.Is(err, checkpoint.ErrOccupied) {
		return &usageError{err.Error()}
	}
	return err
}

// model returns what is to be written.
func (s *modelSource) model(o exportOptions) (checkpoint.Model, error) {
	if s.adapter == nil && o.merge {
		return checkpoint.Model{}, fmt.Errorf("%s has no LoRA adapter; leave --merge out", s.what)
	}
	m := checkpoint.Model{Format: formats[o.format], ShardBytes: o.shardBytes}
	dtype := dtypes[o.dtype]
	names := map[safetensors.DType]string{safetensors.BF16: "bfloat16", safetensors.F16: "float16"}
	m.Config = s.config.JSON(cmp.Or(names[cmp.Or(dtype, s.weights.DType("model.embed_tokens.weight"))], "float32"))
	rename := func(w *checkpoint.Weights) (*checkpoint.Weights, error) {
		if o.names != "mindformers" {
			return w, nil
		}
		c := s.config
		return w.MindSporeTransformers(mindspore.Heads{Attention: c.NumAttentionHeads, KeyValue: c.NumKeyValueHeads, Dim: c.HeadDim})
	}
	weights, err := rename(s.weights)
	if err != nil {
		return m, err
	}
	if m.Tensors, err = tensors(weights, "", dtype); err != nil || !o.optimizer {
		return m, err
	}
	if s.moments == nil || s.adapter != nil {
		return m, fmt.Errorf("%s has no optimizer state of this model; give a checkpoint of a run that trained it, or leave --optimizer out", s.what)
	}
	if o.names == "mindformers" && s.moments[optim.ColumnPrefix] != nil {
		return m, errors.New("--names mindformers fuses matrices, and the state of Adafactor does not follow; use --names huggingface")
	}
	for prefix, moment := range s.moments {
		if moment, err = rename(moment); err != nil {
			return m, err
		}
		list, err := tensors(moment, prefix, "")
		if err != nil {
			return m, err
		}
		m.Optimizer = append(m.Optimizer, list...)
	}
	if m.Format != checkpoint.HuggingFace { // MindSpore's optimizers count their steps
		step := binary.LittleEndian.AppendUint32(nil, uint32(s.loaded.Step))
		m.Optimizer = append(m.Optimizer, safetensors.Tensor{Name: "global_step", DType: safetensors.I32, Shape: []int{1}, Data: safetensors.Bytes(step)})
	}
	return m, nil
}

// tensors lists weights to be written as type d, "" for their own, with a prefix before their names.
func tensors(w *checkpoint.Weights, prefix string, d safetensors.DType) ([]safetensors.Tensor, error) {
	var list []safetensors.Tensor
	for _, name := range w.Names() {
		t, err := w.Tensor(name, d)
		if err != nil {
			return nil, err
		}
		if t.DType.Device() == 0 || t.DType.Device() == device.Uint8 {
			return nil, fmt.Errorf("tensor %q is of type %s, which is no weight's", name, t.DType)
		}
		t.Name = prefix + name
		list = append(list, t)
	}
	return list, nil
}
