package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/model"
)

// A generateSource is what spmd generate samples from.
type generateSource struct {
	dir     string              // of the model
	given   string              // what the command line says
	adapter *checkpoint.Adapter // nil: there is none
}

// openGenerateSource finds the model in dir or, where dir is an adapter, the model that it belongs to: base, else the one that the
// adapter names.
func openGenerateSource(dir, base string) (*generateSource, error) {
	found := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	if found("config.json") || !found("adapter_config.json") {
		if base != "" {
			return nil, &usageError{dir + " is no adapter; leave --base out"}
		}
		return &generateSource{dir: dir, given: dir}, nil
	}
	a, err := checkpoint.OpenAdapter(dir)
	if err != nil {
		return nil, err
	}
	s := &generateSource{dir: cmp.Or(base, a.Config.BaseModel), given: dir, adapter: a}
	if s.dir == "" {
		return nil, errors.Join(&usageError{dir + " does not say which model it belongs to; name its directory with --base DIR"}, a.Close())
	}
	return s, nil
}

// explain adds to an error that came up with the model of an adapter how another one is given.
func (s *generateSource) explain(err error) error {
	if s.adapter == nil {
		return err
	}
	return fmt.Errorf("the model of %s: %w; name its directory with --base DIR", s.given, err)
}

// load reads the model into the device's memory.
func (s *generateSource) load(dev kernels.Device, stream device.Stream) (*model.Model, error) {
	c, problems := model.ReadConfig(s.dir, nil)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, problem := range problems {
			errs[i] = errors.New(problem.String())
		}
		return nil, errors.Join(errs...)
	}
	weights, err := checkpoint.OpenWeights(s.dir)
	if err != nil {
		return nil, err
	}
	defer weights.Close()
	m := model.New(c, model.Partition{})
	if _, err := m.CheckWeights(weights); err != nil {
		return nil, fmt.Errorf("%s: %w", s.dir, err)
	}
	if err := s.adapt(m); err != nil {
		return nil, err
	}
	if err := bind(m, dev); err != nil {
		return nil, err
	}
	if err := m.Initialize(dev, stream, weights, 0); err != nil {
		return nil, err
	}
	if s.adapter != nil {
		if err := m.InitializeAdapter(dev, stream, s.adapter); err != nil {
			return nil, err
		}
	}
	return m, stream.Synchronize()
}

// adapt gives the model the adapters that there are.
func (s *generateSource) adapt(m *model.Model) error {
	if s.adapter == nil {
		return nil
	}
	a := s.adapter.Config
	err := m.Tune(model.Tuning{LoRA: &model.LoRA{Rank: a.Rank, Alpha: a.Alpha, RSLoRA: a.RSLoRA, Targets: a.TargetModules}})
	if err != nil {
		return err
	}
	return m.CheckAdapter(s.adapter)
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

// Close releases what is mapped.
func (s *generateSource) Close() error {
	if s.adapter == nil {
		return nil
	}
	return s.adapter.Close()
}
