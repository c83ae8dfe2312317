package main

import (
	"cmp"
	"errors"
	"fmt"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
)

// openGenerateSource opens what spmd generate samples from.
func (p *program) openGenerateSource(path, base string) (*modelSource, error) {
	s, err := p.openSource(sourceOptions{path: path, base: base, merge: true})
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	if base != "" && s.dir != base { // only what belongs to a model opens one
		return nil, errors.Join(&usageError{path + " is no adapter; leave --base out"}, s.Close())
	}
	return s, nil
}

// tokenizer opens the tokenizer of the model, and returns the directory where its chat template and the tokens that end a text are,
// "" where there is none.
func (s *modelSource) tokenizer() (t tokenizer.Tokenizer, dir string, err error) {
	if dir = s.dir; s.run != "" {
		c := s.settings()
		if c.Data.Tokenizer == "bytes" {
			return tokenizer.Bytes{}, c.Model.Path, nil
		}
		if dir = cmp.Or(c.Data.Tokenizer, c.Model.Path); dir == "" {
			return nil, "", fmt.Errorf("%s does not say with which tokenizer it was trained; export it with --tokenizer DIR, and generate from that", s.what)
		}
	}
	t, err = tokenizer.Open(dir)
	return t, dir, err
}

// load reads the model into the device's memory.
func (s *modelSource) load(dev kernels.Device, stream device.Stream) (*model.Model, error) {
	c := *s.config
	c.PredictionLossWeight = 0 // what predicts further tokens is of no use here
	m := model.New(&c, model.Partition{})
	if err := s.adapt(m); err != nil {
		return nil, err
	}
	if err := bind(m, dev); err != nil {
		return nil, err
	}
	if err := m.Initialize(dev, stream, s.weights, 0); err != nil {
		return nil, err
	}
	if s.adapter != nil {
		if err := m.InitializeAdapter(dev, stream, s.adapter.weights); err != nil {
			return nil, err
		}
	}
	return m, stream.Synchronize()
}

// adapt gives the model the adapters that there are.
func (s *modelSource) adapt(m *model.Model) error {
	if s.adapter == nil {
		return nil
	}
	a := s.adapter.config
	err := m.Tune(model.Tuning{LoRA: &model.LoRA{Rank: a.Rank, Alpha: a.Alpha, RSLoRA: a.RSLoRA, Targets: a.TargetModules}})
	if err != nil {
		return err
	}
	return m.CheckAdapter(s.adapter.weights)
}

// bind allocates the memory of a model's weights.
func bind(m *model.Model, dev kernels.Device) error {
	var measure kernels.Arena
	place := func(a *kernels.Arena) (trained, frozen kernels.Tensor) {
		return a.Tensor(device.Float32, m.WeightElements()), a.Tensor(device.Uint8, m.FrozenBytes())
	}
	place(&measure)
	storage, err := dev.Alloc(measure.Bytes())
	if err != nil {
		return err
	}
	return m.Bind(place(kernels.NewArena(storage)))
}
