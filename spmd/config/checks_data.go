package config

import (
	"errors"
	"path/filepath"

	"lockstep/spmd/data"
	"lockstep/spmd/data/tokenizer"
)

// goroot is the directory of Go's sources.
func (o LoadOptions) goroot() (string, error) {
	if o.Getenv != nil {
		if dir := o.Getenv("GOROOT"); dir != "" {
			return dir, nil
		}
	}
	if o.Goroot == nil {
		return "", errors.New("GOROOT is not set")
	}
	return o.Goroot()
}

// TrainingData returns the options with which package data opens what the run trains on.
func (c *Config) TrainingData(o LoadOptions) data.Options {
	d := c.dataOptions(o)
	d.Parts, d.Exclude = c.parts(), c.Data.ValidationPaths
	d.Shuffle, d.Seed = c.Data.Shuffle, c.Run.Seed
	d.ValidationSplit = c.Data.ValidationSplit
	if c.Data.Order == "megatron" {
		d.Megatron = &data.MegatronOrder{Samples: int64(c.Train.Steps) * int64(c.Train.GlobalBatchSize)}
	}
	return d
}

// parts returns what data.paths or data.blend name.
func (c *Config) parts() []data.Part {
	if len(c.Data.Blend) == 0 {
		return []data.Part{{Paths: c.Data.Paths}}
	}
	var parts []data.Part
	for _, b := range c.Data.Blend {
		parts = append(parts, data.Part{Weight: b.Weight, Paths: b.Paths})
	}
	return parts
}

// ValidationData returns the options with which package data opens what the run validates on, always in the order of the
// files; false if there is nothing.
func (c *Config) ValidationData(o LoadOptions) (data.Options, bool) {
	d := c.dataOptions(o)
	if len(c.Data.ValidationPaths) > 0 {
		d.Parts = []data.Part{{Paths: c.Data.ValidationPaths}}
		return d, true
	}
	d.Parts = c.parts()
	d.ValidationSplit, d.HeldOut = c.Data.ValidationSplit, true
	if c.Data.Order == "megatron" {
		d.Megatron = &data.MegatronOrder{} // what it leaves over
	}
	return d, c.Data.ValidationSplit > 0
}

func (c *Config) dataOptions(o LoadOptions) data.Options {
	d := data.Options{Format: c.Data.Format, TextKey: c.Data.TextKey, Tokenizer: c.Tokenizer, Chat: c.Chat, SequenceLength: c.Data.SequenceLength,
		Packing: c.Data.Packing, Overlong: c.Data.Overlong, EOD: int32(c.Data.EOD), EODMaskLoss: c.Data.EODMaskLoss,
		Goroot: o.goroot, Cache: filepath.Join(c.Run.OutputDir, "data")}
	if c.Architecture != nil {
		d.VocabSize = c.Architecture.VocabSize
	}
	return d
}

// checkData opens the data and closes it again: the files exist, are what the format says, and hold a sample.
func (l *loader) checkData(o LoadOptions) {
	if !l.usable("data.format", "data.tokenizer", "data.chat_template") {
		return
	}
	validation, validates := l.config.ValidationData(o)
	if validates && len(l.config.Data.ValidationPaths) > 0 && l.usable("data.validation_paths") {
		l.checkOpens("data.validation_paths", "data.validation_paths", validation)
	}
	paths := "data.paths"
	if len(l.config.Data.Blend) > 0 {
		paths = "data.blend"
	}
	if !l.usable("data.paths", "data.blend") || len(l.config.Data.Paths) == 0 && len(l.config.Data.Blend) == 0 {
		return
	}
	if l.config.Run.Mode == "evaluate" && len(l.config.Data.ValidationPaths) > 0 {
		return // data.paths is not read
	}
	training := l.config.TrainingData(o)
	if !l.usable("data.validation_paths") {
		training.Exclude = nil
	}
	if !l.usable("data.validation_split") {
		training.ValidationSplit, validates = 0, false
	}
	l.checkOpens(paths, "data.sequence_length", training)
	if validates && validation.HeldOut && l.usable(paths, "data.sequence_length") {
		l.checkOpens(paths, "data.validation_split", validation)
	}
}

// checkOpens reports why data cannot be opened: at the key paths for each path that is at fault, at the key size if all
// of them together hold less than one sample.
func (l *loader) checkOpens(paths, size string, o data.Options) {
	// The files are checked whatever else is wrong; the vocabulary has a check of its own.
	o.VocabSize = 0
	if !l.usable("data.sequence_length") {
		o.SequenceLength = 1
	}
	if !l.usable("data.eod") {
		o.EOD = tokenizer.EndOfDocument
	}
	err := data.Check(o)
	if err == nil {
		return
	}
	if errors.Is(err, data.ErrTooFewTokens) {
		if l.usable("data.sequence_length") {
			l.problem(size, err.Error(), "")
		}
		return
	}
	found := false
	for _, path := range allPaths(o.Parts) {
		one := o
		one.Parts, one.Exclude = []data.Part{{Paths: []string{path}}}, nil
		if err := data.Check(one); err != nil && !errors.Is(err, data.ErrTooFewTokens) {
			l.problem(paths, err.Error(), "correct the path")
			found = true
		}
	}
	if !found {
		l.problem(paths, err.Error(), "correct the paths")
	}
}

// allPaths returns the paths of all parts.
func allPaths(parts []data.Part) []string {
	var paths []string
	for _, p := range parts {
		paths = append(paths, p.Paths...)
	}
	return paths
}
