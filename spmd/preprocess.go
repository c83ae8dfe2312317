package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/spmd/data"
	"lockstep/spmd/data/tokenizer"
)

const preprocessUsage = `usage: spmd preprocess --output PREFIX --tokenizer DIR [options] PATH...
       spmd preprocess --decode PREFIX --tokenizer DIR --output FILE.jsonl

The first form writes the documents in PATHs (files, directories, patterns with * and **) as PREFIX.bin and PREFIX.idx,
which data.format = "megatron" and Megatron-LM read. It works on all cores; when it was interrupted, the same command goes
on where it was and writes the same bytes. The second form turns such a pair back into text.

  --output PATH      what to write
  --tokenizer DIR    a directory with tokenizer.json, such as a model's, or "bytes"
  --format NAME      text: a document per file. jsonl: a JSON object per line, or one array of objects. parquet: a row each.
                     Without it, what the names of the files end in says: .parquet, .jsonl and .json, else text
  --text-key NAME    the key of an object, or the column, that has the text ("text")
  --eod ID           the token that ends each document; -1: the tokenizer's own (-1)
  --no-eod           end documents with nothing
  --decode PREFIX    turn a pair back into JSON lines
  --workers N        goroutines that tokenize; 0: one per core (0)
`

// preprocessOptions are the options of spmd preprocess.
type preprocessOptions struct {
	data.BuildOptions
	tokenizer, decode string
	eod               int
	noEOD             bool
}

// parsePreprocess reads the command line; paths may stand between the options.
func (p *program) parsePreprocess(args []string) (o preprocessOptions, err error) {
	flags := flag.NewFlagSet("preprocess", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Usage = func() { fmt.Fprint(p.stderr, preprocessUsage) }
	flags.StringVar(&o.Prefix, "output", "", "")
	flags.StringVar(&o.tokenizer, "tokenizer", "", "")
	flags.StringVar(&o.Format, "format", "", "")
	flags.StringVar(&o.TextKey, "text-key", "text", "")
	flags.IntVar(&o.eod, "eod", -1, "")
	flags.BoolVar(&o.noEOD, "no-eod", false, "")
	flags.StringVar(&o.decode, "decode", "", "")
	flags.IntVar(&o.Workers, "workers", 0, "")
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return o, errors.Join(errReported, err)
		}
		if args = flags.Args(); len(args) > 0 {
			o.Paths, args = append(o.Paths, args[0]), args[1:]
		}
	}
	switch {
	case o.Prefix == "" || o.tokenizer == "":
		return o, &usageError{"preprocess wants --output and --tokenizer; see spmd preprocess --help"}
	case o.decode == "" && len(o.Paths) == 0:
		return o, &usageError{"preprocess wants the paths of files; see spmd preprocess --help"}
	case o.decode != "" && len(o.Paths) > 0:
		return o, &usageError{fmt.Sprintf("--decode reads %s alone, not %s too", o.decode, o.Paths[0])}
	case o.Workers < 0 || o.eod < -1 || o.eod > math.MaxInt32:
		return o, &usageError{"--workers wants a number from 0 on, --eod the id of a token"}
	case o.Format == "":
		o.Format = formatOf(o.Paths)
	}
	if o.Format != "text" && o.Format != "jsonl" && o.Format != "parquet" {
		return o, &usageError{fmt.Sprintf("--format %q is not known; use text, jsonl or parquet", o.Format)}
	}
	return o, nil
}

// formatOf returns the format that the names of files end in.
func formatOf(paths []string) string {
	format := "text"
	for _, path := range paths {
		switch {
		case strings.HasSuffix(path, ".parquet"):
			format = "parquet"
		case strings.HasSuffix(path, ".jsonl"), strings.HasSuffix(path, ".json"):
			format = "jsonl"
		}
	}
	return format
}

// preprocess writes a token store, or turns one into text.
func (p *program) preprocess(args []string) error {
	o, err := p.parsePreprocess(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Tokenizer, err = openTokenizer(o.tokenizer); err != nil {
		return err
	}
	o.EOD = int32(o.eod)
	switch {
	case o.noEOD:
		o.EOD = -1
	case o.eod < 0:
		if o.EOD = o.Tokenizer.EOD(); o.EOD < 0 {
			return &usageError{"the tokenizer does not say which token ends a document; give its id with --eod, or --no-eod"}
		}
	case o.eod >= o.Tokenizer.VocabSize():
		return &usageError{fmt.Sprintf("--eod %d is no token, the tokenizer has ids 0 to %d", o.eod, o.Tokenizer.VocabSize()-1)}
	}
	if o.decode != "" {
		return p.decodePair(o)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	bar := newProgressBar(p.stdout, time.Now)
	o.Progress, o.Goroot = bar.update, p.goroot
	done, err := data.Build(ctx, o.BuildOptions)
	bar.end()
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the same command goes on from here", err)
		}
		return err
	}
	fmt.Fprintf(p.stdout, "%s.bin and .idx: %d documents, %d tokens\n", o.Prefix, done.Documents, done.Tokens)
	return nil
}

// openTokenizer opens what --tokenizer or data.tokenizer names.
func openTokenizer(name string) (tokenizer.Tokenizer, error) {
	if name == "bytes" {
		return tokenizer.Bytes{}, nil
	}
	return tokenizer.Open(name)
}

// decodePair writes a pair as text. The file appears under its name when it is complete.
func (p *program) decodePair(o preprocessOptions) error {
	file, err := os.Create(o.Prefix + ".partial")
	if err != nil {
		return err
	}
	n, err := data.Extract(file, o.decode, o.Tokenizer, o.EOD)
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if err := os.Rename(file.Name(), o.Prefix); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s: %d documents\n", o.Prefix, n)
	return nil
}

// A progressBar shows on a terminal how far a store is: one line that is drawn again; elsewhere a line now and then.
type progressBar struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	started  time.Time
	from     int64 // bytes that an earlier process had done
	drawn    time.Time
	length   int // of the line on the terminal
}

func newProgressBar(w io.Writer, now func() time.Time) *progressBar {
	b := &progressBar{w: w, now: now, started: now(), drawn: now(), from: -1}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		b.terminal = err == nil
	}
	return b
}

// update draws p unless the last drawing is fresh.
func (b *progressBar) update(p data.Progress) {
	if b.from < 0 {
		b.from = p.Bytes
	}
	every := 10 * time.Second
	if b.terminal {
		every = 100 * time.Millisecond
	}
	now := b.now()
	if now.Sub(b.drawn) < every {
		return
	}
	b.drawn = now
	line := describeProgress(p, b.from, now.Sub(b.started))
	if !b.terminal {
		fmt.Fprintln(b.w, line)
		return
	}
	fmt.Fprintf(b.w, "\r%-*s", b.length, line)
	b.length = len(line)
}

// describeProgress writes what is done, how fast, and how long the rest takes.
func describeProgress(p data.Progress, from int64, took time.Duration) string {
	const width = 20
	share := 1.0
	if p.Total > 0 {
		share = float64(p.Bytes) / float64(p.Total)
	}
	done := min(int(share*width), width)
	line := fmt.Sprintf("[%s%s] %3.0f%%  %.1f of %.1f MB  %d documents  %d tokens", strings.Repeat("#", done), strings.Repeat(".", width-done),
		100*share, float64(p.Bytes)/1e6, float64(p.Total)/1e6, p.Documents, p.Tokens)
	if speed := float64(p.Bytes-from) / took.Seconds(); p.Bytes > from && took > 0 {
		left := time.Duration(float64(p.Total-p.Bytes) / speed * float64(time.Second))
		line += fmt.Sprintf("  %.1f MB/s  %s left", speed/1e6, left.Round(time.Second))
	}
	return line
}

// end clears the bar.
func (b *progressBar) end() {
	if b.length > 0 {
		fmt.Fprintf(b.w, "\r%*s\r", b.length, "")
	}
}
