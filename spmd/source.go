package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"lockstep/spmd/checkpoint"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
	"lockstep/spmd/optim"
	"lockstep/spmd/train"
)

// A modelSource is what spmd export and spmd generate read: a model, wherever it is.
type modelSource struct {
	sourceOptions
	what    string // for people: the checkpoint or the directory
	config  *model.Config
	weights *checkpoint.Weights
	moments map[string]*checkpoint.Weights // the optimizer's state by its prefix, nil where there is none

	adapter *loraAdapter // a LoRA adapter of the weights, nil where there is none

	run    string // the output directory of the run that a checkpoint belongs to, "" for a model directory
	dir    string // the model directory
	loaded *checkpoint.Loaded

	closers []io.Closer
}

// sourceOptions say what is wanted of a source.
type sourceOptions struct {
	path    string
	base    string // the model that an adapter, or a checkpoint of a part of a model, belongs to; "" leaves it to what the source says
	merge   bool   // the model that an adapter belongs to is wanted, too
	average bool   // the average of a checkpoint's weights is wanted
}

// openSource opens a checkpoint, the newest one of a run, a model directory, or an adapter. The model that an adapter belongs to
// is opened where it is wanted.
func (p *program) openSource(o sourceOptions) (*modelSource, error) {
	path := o.path
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w; give a checkpoint, the output directory of a run, or a model directory", err)
	}
	if !info.IsDir() && filepath.Base(path) == "latest" {
		name, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		path = filepath.Join(filepath.Dir(path), strings.TrimSpace(string(name)))
	}
	s := &modelSource{sourceOptions: o}
	log := slog.New(newConsoleHandler(p.stderr))
	switch found := func(name string) bool { _, err := os.Stat(filepath.Join(path, name)); return err == nil }; {
	case found("config.json"):
		err = s.openModel(path)
	case found("adapter_config.json"):
		err = s.openAdapter(path)
	case found("checkpoints"):
		err = s.openCheckpoint(path, func() (*checkpoint.Loaded, error) {
			return checkpoint.OpenReadOnly(filepath.Join(path, "checkpoints"), log).Newest()
		})
	case found("latest"):
		err = s.openCheckpoint(filepath.Dir(path), checkpoint.OpenReadOnly(path, log).Newest)
	default:
		err = s.openCheckpoint(filepath.Dir(filepath.Dir(path)), func() (*checkpoint.Loaded, error) { return checkpoint.LoadDir(path) })
	}
	if err == nil && s.average && s.loaded == nil {
		err = s.noAverage()
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openModel opens a model directory.
func (s *modelSource) openModel(dir string) (err error) {
	c, problems := model.ReadConfig(dir, nil)
	for _, p := range problems {
		err = errors.Join(err, errors.New(p.String()))
	}
	if err != nil {
		return err
	}
	s.what, s.dir, s.config = dir, dir, c
	if s.weights, err = checkpoint.OpenWeights(dir); err != nil {
		return err
	}
	s.closers = append(s.closers, s.weights)
	return nil
}

// check makes sure that the weights are those of the model.
func (s *modelSource) check() error {
	if s.weights == nil { // an adapter alone
		return nil
	}
	_, err := model.New(s.config, model.Partition{}).CheckWeights(s.weights)
	if err == nil && s.adapter != nil {
		err = s.adapter.check(s.weights)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	return nil
}

// openCheckpoint takes the model and its state out of a checkpoint of the run in the output directory run.
func (s *modelSource) openCheckpoint(run string, load func() (*checkpoint.Loaded, error)) (err error) {
	if s.loaded, err = load(); err != nil {
		return err
	}
	s.what, s.run, s.closers = s.loaded.Dir, run, append(s.closers, s.loaded)
	if s.config, err = train.Architecture(s.loaded.Record); err != nil {
		return err
	}
	prefix := train.WeightPrefix
	if s.average {
		prefix = train.AveragePrefix
	}
	weights := s.loaded.Weights(prefix)
	if len(weights.Names()) == 0 {
		return s.noAverage()
	}
	if s.average {
		s.what += ", averaged"
	}
	s.moments = map[string]*checkpoint.Weights{}
	for _, prefix := range optim.StatePrefixes() {
		if part := s.loaded.Weights(prefix); len(part.Names()) > 0 {
			s.moments[prefix] = part
		}
	}
	adapter, isAdapter, err := train.Adapter(s.loaded.Record)
	switch {
	case err != nil:
		return err
	case isAdapter:
		adapter.BaseModel = s.settings().Model.Path
		s.adapter = &loraAdapter{adapter, weights}
		return s.openBase(adapter.BaseModel)
	case train.Partial(s.loaded.Record):
		if err := s.openBase(s.settings().Model.Path); err != nil {
			return err
		}
		s.weights = weights.Over(s.weights)
		return nil
	}
	s.weights = weights
	return nil
}

// noAverage says that the source has no average of its weights.
func (s *modelSource) noAverage() error {
	return fmt.Errorf("%s has no average of the weights; give a checkpoint of a run with optimizer.ema_decay, or leave --ema out", s.what)
}

// runSettings are keys of a run's config.resolved.toml.
type runSettings struct {
	Data struct {
		Tokenizer    string
		ChatTemplate string `toml:"chat_template"`
	}
	Model struct{ Path string }
}

// settings reads those of the run that a checkpoint belongs to. The run may have been moved, or be gone: then they are empty.
func (s *modelSource) settings() (c runSettings) {
	text, err := os.ReadFile(filepath.Join(s.run, "config.resolved.toml"))
	if err == nil {
		err = toml.Unmarshal(text, &c)
	}
	if err != nil {
		return runSettings{}
	}
	return c
}

// Close releases what is mapped.
func (s *modelSource) Close() error {
	var err error
	for _, c := range s.closers {
		err = errors.Join(err, c.Close())
	}
	return err
}

// companions are the tokenizer's files in a model directory.
var companions = []string{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
	"vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"}

// maxCompanionBytes bounds one of them.
const maxCompanionBytes = 128 << 20

// readCompanion reads a file that is not too large.
func readCompanion(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCompanionBytes {
		return nil, fmt.Errorf("%s has %d bytes, expected a file of at most %d", path, info.Size(), maxCompanionBytes)
	}
	return os.ReadFile(path)
}

// files returns the files to write beside the weights: the tokenizer's, from tokenizerDir where it is given, the chat template that
// a run was told to take, and the model's generation_config.json.
func (s *modelSource) files(tokenizerDir string) (map[string][]byte, error) {
	files, err := s.tokenizerFiles(tokenizerDir)
	if err != nil {
		return nil, err
	}
	if template := s.settings().Data.ChatTemplate; template != "" {
		text, err := readCompanion(template)
		if err == nil {
			files[tokenizer.ChatTemplateName] = text
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if dir := cmp.Or(s.dir, s.settings().Model.Path); dir != "" {
		generation, err := checkpoint.ReadConfig(dir, checkpoint.GenerationConfigName)
		if err != nil {
			return nil, err
		}
		if generation != nil {
			files[checkpoint.GenerationConfigName] = generation
		}
	}
	return files, nil
}

// tokenizerFiles returns the tokenizer's files: those in dir, where it is given, else those of the source.
func (s *modelSource) tokenizerFiles(dir string) (map[string][]byte, error) {
	if dir == "" && s.run != "" {
		c := s.settings()
		if c.Data.Tokenizer == "bytes" {
			return tokenizer.Bytes{}.Files()
		}
		dir = cmp.Or(c.Data.Tokenizer, c.Model.Path)
	} else if dir == "" {
		dir = s.dir
	} else if _, err := os.Stat(filepath.Join(dir, "tokenizer.json")); err != nil {
		return nil, fmt.Errorf("--tokenizer: %w", err)
	}
	files := map[string][]byte{}
	for _, name := range companions {
		content, err := readCompanion(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[name] = content
	}
	return files, nil
}
