package train

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"lockstep/collective"
	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/config"
	"lockstep/spmd/data"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
	"lockstep/spmd/monitor"
	"lockstep/spmd/optim"
)

// Options are what a Trainer works with. The caller owns the device, the stream and the world.
type Options struct {
	// Load is how the configuration was loaded; data paths are resolved alike.
	Load   config.LoadOptions
	Device kernels.Device
	// Stream runs the rank's computation, Beside every other micro batch where they are interleaved; nil where they are not.
	Stream, Beside device.Stream
	World          *collective.World
	// Threads is how many threads the device computes with: the fewer, the slower a checkpoint is written in the background. 0: as
	// fast as can be.
	Threads int
	// SumFloat32 folds float32 gradients and activations, SumBFloat16 activations, SumFloat64 whole numbers, see
	// collective.Reduction.
	SumFloat32, SumBFloat16, SumFloat64 func(dst, src [][]byte)
	// Sink receives the record of each step, on rank 0.
	Sink monitor.Sink
	Log  *slog.Logger
}

// A Trainer is one rank's part of a run.
type Trainer struct {
	*Layout
	Options
	schedule *optim.Schedule
	sum      collective.Reduction // of gradients
	wideSum  collective.Reduction // of whole numbers in float64: the experts' load, the exact sum of squares
	world    collective.Group     // all ranks
	data     collective.Group     // those that hold the same and work on other tokens
	tensor   [2]collective.Group  // those that share the layers' matrices, for each context of the executor; nil where there is one
	experts  collective.Group     // those that share the experts, nil where this rank has all
	sharers  [model.NumReducers]sharers
	exchange *exchange
	pipeline collective.Group // the stages, through which this rank's micro batches pass
	pipelineEvents
	storage []*device.Storage
	placed  *placed
	host    hostMemory

	training   *data.Dataset
	validation *data.Dataset     // nil where there is none
	record     checkpoint.Record // on rank 0
	store      *checkpoint.Store // nil where nothing is trained
	saved      savedState

	next      int // the step to make, from 0
	resumedAt int // the step that the run was resumed after, 0 for a new run
}

// New opens the data and the checkpoints, lays the run out in memory and fills it: from the newest sound checkpoint, from
// the model's weights, or at random. Close releases everything.
func New(l *Layout, o Options) (t *Trainer, err error) {
	t = &Trainer{Layout: l, Options: o, sum: collective.Reduction{DType: device.Float32, Fold: o.SumFloat32},
		wideSum: collective.Reduction{DType: device.Float64, Fold: o.SumFloat64}}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if err := t.openData(); err != nil {
		return t, err
	}
	if l.Config.Run.Mode != "evaluate" {
		if t.schedule, err = optim.NewSchedule(l.Config.Schedule()); err != nil {
			return t, &ConfigurationError{Key: "lr_schedule.type", Err: err}
		}
	}
	if l.Config.Run.Mode != "evaluate" && l.Mesh.Rank == 0 {
		if t.record, err = newRecord(t); err != nil {
			return t, err
		}
	}
	if err := t.openGroups(); err != nil {
		return t, err
	}
	if err := t.allocate(); err != nil {
		return t, err
	}
	if l.Config.Run.Mode != "evaluate" {
		if err := t.openStore(); err != nil {
			return t, err
		}
		if err := t.divideState(); err != nil {
			return t, err
		}
	}
	return t, t.fill()
}

// openGroups makes the groups of ranks that exchange something in a step, which waits for it.
func (t *Trainer) openGroups() error {
	world, err := t.World.NewGroup("world", t.Mesh.Ranks(mesh.Tensor, mesh.Context, mesh.Data, mesh.Pipeline))
	if err != nil {
		return err
	}
	t.world = world.Blocking()
	if err := t.openTensorGroups(); err != nil {
		return err
	}
	for r := range t.sharers {
		if err := t.openSharers(model.Reducers(r)); err != nil {
			return err
		}
	}
	t.data = t.sharers[model.Replicas].gradients.Blocking()
	if t.Mesh.ExpertSize() > 1 {
		if t.experts, err = t.World.NewGroup("experts", t.Mesh.ExpertGroup()); err != nil {
			return err
		}
		if !t.Config.Parallel.Overlap {
			t.experts = t.experts.Blocking()
		}
	}
	t.pipeline, err = t.World.NewGroup("pipeline", t.Mesh.Ranks(mesh.Pipeline)) // what stages exchange goes on beside the computation
	return err
}

// openData opens the data sets.
func (t *Trainer) openData() (err error) {
	if t.Config.Run.Mode != "evaluate" {
		if t.training, err = data.Open(t.Config.TrainingData(t.Load)); err != nil {
			return fmt.Errorf("data.paths: %w", err)
		}
	}
	if o, ok := t.Config.ValidationData(t.Load); ok {
		if t.validation, err = data.Open(o); err != nil {
			return fmt.Errorf("validation data: %w", err)
		}
	}
	return nil
}

// allocate takes the rank's memory: one private allocation, and what the ranks exchange.
func (t *Trainer) allocate() error {
	exchanged, err := t.allocateExchanged()
	if err != nil {
		return fmt.Errorf("memory for what ranks exchange: %w", err)
	}
	t.storage = append(t.storage, exchanged)
	private, err := t.Device.Alloc(t.privateBytes())
	if err != nil {
		return fmt.Errorf("memory for the model: %w", err)
	}
	t.storage = append(t.storage, private)
	t.exchange = newExchange(t)
	if t.placed, err = t.place(t.Device, [2]device.Stream{t.Stream, t.Beside}, t.arenas(private, exchanged), links{t.pipeline, t.exchange}); err != nil {
		return err
	}
	for i, c := range t.placed.contexts {
		c.Tensor, c.Sum, c.Expert = t.tensor[i], t.activationSum(), t.experts
	}
	if b := t.placed.balancing; b != nil {
		b.Ranks = t.sharers[model.TensorReplicas].gradients
	}
	if err := t.openContextGroups(); err != nil {
		return err
	}
	model.WriteTables(t.Config.Architecture, t.Device, t.Stream, t.placed.cos, t.placed.sin, t.tablePositions())
	return t.bind()
}

// activationSum adds up activations.
func (t *Trainer) activationSum() collective.Reduction {
	if t.Config.Train.Activations() == device.BFloat16 {
		return collective.Reduction{DType: device.BFloat16, Fold: t.SumBFloat16}
	}
	return t.sum
}

// allocateExchanged takes the memory that ranks exchange. Stages of a pipeline need it in different sizes.
func (t *Trainer) allocateExchanged() (*device.Storage, error) {
	sizes, err := t.world.GatherBytes(context.Background(), binary.BigEndian.AppendUint64(nil, uint64(t.exchangedBytes())))
	if err != nil {
		return nil, err
	}
	largest := uint64(0)
	for _, size := range sizes {
		largest = max(largest, binary.BigEndian.Uint64(size))
	}
	return t.World.Alloc(t.exchangedBytes(), int(largest), t.Device)
}

// fill gives the weights and the optimizer's state their values. A checkpoint has those of what is trained; what is frozen comes
// from where it came from at first.
func (t *Trainer) fill() error {
	frozen := len(t.Model.Frozen) > 0
	if frozen {
		if err := t.begin(); err != nil {
			return err
		}
	}
	resumed, err := t.resume()
	if err != nil || resumed || frozen {
		return err
	}
	return t.begin()
}

// begin fills the weights, and their average if there is one, with what a run starts from.
func (t *Trainer) begin() error {
	if err := t.initialize(); err != nil || t.placed.average == nil {
		return err
	}
	t.placed.average.Start(t.Device, t.Stream)
	return t.Stream.Synchronize()
}

// initialize fills the weights with what a run starts from.
func (t *Trainer) initialize() error {
	src, err := t.pretrained()
	if err != nil {
		return err
	}
	if src == nil {
		t.Log.Info("the weights are initialised at random", "seed", t.Config.Run.Seed)
		if err := t.Model.Initialize(t.Device, t.Stream, nil, t.Config.Run.Seed); err != nil {
			return err
		}
		return t.Stream.Synchronize()
	}
	defer src.Close()
	t.Log.Info("the weights are loaded", "from", t.Config.Model.Path)
	if err := t.Model.Initialize(t.Device, t.Stream, src, t.Config.Run.Seed); err != nil {
		return fmt.Errorf("model.path: %w", err)
	}
	if err := t.initializeAdapter(); err != nil {
		return err
	}
	return t.Stream.Synchronize()
}

// initializeAdapter loads the adapter that a run of LoRA starts from, if there is one.
func (t *Trainer) initializeAdapter() error {
	dir := t.Config.LoRA.Init
	if dir == "" {
		return nil
	}
	a, err := checkpoint.OpenAdapter(dir)
	if err != nil {
		return &ConfigurationError{Key: "lora.init", Err: err}
	}
	defer a.Close()
	t.Log.Info("the adapter is loaded", "from", dir)
	if err := t.Model.InitializeAdapter(t.Device, t.Stream, a); err != nil {
		return fmt.Errorf("lora.init: %w", err)
	}
	return nil
}

// pretrained opens the weights to start from, nil where they are random.
func (t *Trainer) pretrained() (*checkpoint.Weights, error) {
	m := t.Config.Model
	if m.Path == "" || m.Init == "random" || !checkpoint.HasWeights(m.Path) {
		return nil, nil
	}
	w, err := checkpoint.OpenWeights(m.Path)
	if err != nil {
		return nil, &ConfigurationError{Key: "model.path", Err: err}
	}
	return w, nil
}

// Close releases the data, the checkpoints and the memory. It waits for a checkpoint that is being written.
func (t *Trainer) Close() error {
	errs := []error{t.closeStore()}
	for _, d := range []*data.Dataset{t.training, t.validation} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	for _, s := range t.storage {
		errs = append(errs, s.Free())
	}
	t.storage = nil
	return errors.Join(errs...)
}

// A ConfigurationError is a mistake of the user's that shows only once the run's files are read: the run ends with the exit
// status of a wrong configuration.
type ConfigurationError struct {
	Key string // of config.toml
	Err error
}

func (e *ConfigurationError) Error() string { return e.Key + ": " + e.Err.Error() }

func (e *ConfigurationError) Unwrap() error { return e.Err }
