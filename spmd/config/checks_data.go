package config

import (
	"errors"

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
	d.Paths, d.Exclude = c.Data.Paths, c.Data.ValidationPaths
	d.Shuffle, d.Seed = c.Data.Shuffle, c.Run.Seed
	d.ValidationSplit = c.Data.ValidationSplit
	return d
}

// ValidationData returns the options with which package data opens what the run validates on, always in the order of the
// files; false if there is nothing.
func (c *Config) ValidationData(o LoadOptions) (data.Options, bool) {
	d := c.dataOptions(o)
	if len(c.Data.ValidationPaths) > 0 {
		d.Paths = c.Data.ValidationPaths
		return d, true
	}
	d.Paths = c.Data.Paths
	d.ValidationSplit, d.HeldOut = c.Data.ValidationSplit, true
	return d, c.Data.ValidationSplit > 0
}

func (c *Config) dataOptions(o LoadOptions) data.Options {
	d := data.Options{Format: c.Data.Format, SequenceLength: c.Data.SequenceLength, EOD: int32(c.Data.EOD), Goroot: o.goroot}
	if c.Architecture != nil {
		d.VocabSize = c.Architecture.VocabSize
	}
	return d
}

// checkData opens the data and closes it again: the files exist, are what the format says, and hold a sample.
func (l *loader) checkData(o LoadOptions) {
	if !l.usable("data.format") {
		return
	}
	validation, validates := l.config.ValidationData(o)
	if validates && len(l.config.Data.ValidationPaths) > 0 && l.usable("data.validation_paths") {
		l.checkOpens("data.validation_paths", "data.validation_paths", validation)
	}
	if !l.usable("data.paths") || len(l.config.Data.Paths) == 0 {
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
	l.checkOpens("data.paths", "data.sequence_length", training)
	if validates && validation.HeldOut && l.usable("data.paths", "data.sequence_length") {
		l.checkOpens("data.paths", "data.validation_split", validation)
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
	err := opens(o)
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
	for _, path := range o.Paths {
		one := o
		one.Paths, one.Exclude = []string{path}, nil
		if err := opens(one); err != nil && !errors.Is(err, data.ErrTooFewTokens) {
			l.problem(paths, err.Error(), "correct the path")
			found = true
		}
	}
	if !found {
		l.problem(paths, err.Error(), "correct the paths")
	}
}

func opens(o data.Options) error {
	set, err := data.Open(o)
	if err != nil {
		return err
	}
	return set.Close()
}
