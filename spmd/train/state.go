package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/kernels/device"
	"lockstep/spmd/checkpoint"
	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/mesh"
	"lockstep/spmd/monitor"
	"lockstep/spmd/optim"
)

// state lists the tensors of a run's state: the weights, the optimizer's state, and the average of the weights if there is one,
// parameter by parameter under a prefix and the Hugging Face name.
func (l *Layout) state(p *placed) (list []optim.StateTensor) {
	list = l.weightState(p)
	list = append(list, p.optimizer.State()...)
	if p.average != nil {
		list = append(list, p.average.State(AveragePrefix)...)
	}
	return list
}

// weightState lists the weights that this rank holds.
func (l *Layout) weightState(p *placed) (list []optim.StateTensor) {
	if l.stage == 3 {
		for _, piece := range append(l.shards.Owned(), l.shards.Untrained()...) {
			list = append(list, optim.StateTensor{Name: WeightPrefix + piece.Parameter.Name, Value: piece.In(p.weights), Slice: piece.Slice})
		}
		return list
	}
	for _, parameter := range l.Model.Parameters {
		list = append(list, optim.StateTensor{Name: WeightPrefix + parameter.Name, Value: l.Model.Slice(p.weights, parameter), Slice: parameter.Slice})
	}
	return list
}

// WeightPrefix is the prefix of the weights, AveragePrefix that of their average; optim.StatePrefixes has those of the
// optimizers.
const WeightPrefix, AveragePrefix = "weight/", "ema/"

// stateFormats are the values of checkpoint.format.
var stateFormats = map[string]checkpoint.Format{"safetensors": checkpoint.HuggingFace, "ckpt": checkpoint.Ckpt}

// A savedState is this rank's part of the run's state, as checkpoints know it.
type savedState struct {
	tensors []optim.StateTensor
	parts   []checkpoint.Part // the tensors' slices
	shares  []checkpoint.Part // what of each this rank writes
	copied  []byte            // the shares, as a save in the background writes them
	at      time.Time         // of the last save in the background, or of the run's start
	dir     string            // of the checkpoint that holds the state after t.next steps, "" where none does
}

// openStore opens the checkpoints, on all ranks.
func (t *Trainer) openStore() (err error) {
	group, err := t.World.NewGroup("checkpoint", t.Mesh.Ranks(mesh.Tensor, mesh.Context, mesh.Data, mesh.Pipeline))
	if err != nil {
		return err
	}
	c := t.Config.Checkpoint
	t.store, err = checkpoint.Open(t.checkpointDir(), checkpoint.Options{Keep: c.Keep, KeepEvery: c.KeepEvery,
		Format: stateFormats[c.Format], Peers: &peers{group, t.Device, t.Stream}, Pause: t.Config.Collective.Timeout / 8, Log: t.Log})
	return err
}

// divideState finds out which part of the state this rank writes, and takes the memory for copying it.
func (t *Trainer) divideState() (err error) {
	s := &t.saved
	s.tensors, s.at = t.state(t.placed), time.Now()
	for _, tensor := range s.tensors {
		s.parts = append(s.parts, checkpoint.Part{Name: tensor.Name, DType: safetensors.FromDevice(tensor.Value.DType), Slice: tensor.Slice})
	}
	if s.shares, err = t.store.Divide(context.Background(), s.parts); err != nil || !t.copies() {
		return err
	}
	bytes := 0
	for i, share := range s.shares {
		bytes += share.Slice.Len() * s.tensors[i].Value.DType.Size()
	}
	if bytes == 0 {
		return nil
	}
	// Outside of the Go heap, whose size decides how much garbage there may be, and written to once, so that the first save does not
	// wait for the kernel.
	s.copied, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("memory for checkpoints in the background: %w", err)
	}
	_ = unix.Madvise(s.copied, unix.MADV_HUGEPAGE) // only a hint: with large pages a copy takes less time
	for at := 0; at < bytes; at += os.Getpagesize() {
		s.copied[at] = 1
	}
	return nil
}

// copies reports whether the run saves in the background.
func (l *Layout) copies() bool {
	c := l.Config
	return c.Run.Mode != "evaluate" && c.Checkpoint.Async && c.Checkpoint.Interval > 0
}

// closeStore waits for a checkpoint that is being written, and closes them.
func (t *Trainer) closeStore() error {
	if t.store == nil {
		return nil
	}
	err := t.store.Close()
	if t.saved.copied != nil {
		err = errors.Join(err, unix.Munmap(t.saved.copied))
		t.saved.copied = nil
	}
	return err
}

// save writes a checkpoint of the state after t.next steps.
func (t *Trainer) save() error {
	t.store.Wait()
	t.exchange.settle()
	started := time.Now()
	snapshot := &checkpoint.Snapshot{Step: t.next, Record: t.record}
	for i, share := range t.saved.shares {
		snapshot.Pieces = append(snapshot.Pieces, checkpoint.Piece{Part: share, Data: t.writer(t.shareOf(i))})
	}
	err := t.store.Save(context.Background(), snapshot)
	if err == nil {
		t.saved.dir = t.store.Path(t.next)
		t.Log.Info("a checkpoint is written", "to", t.saved.dir, "time", time.Since(started).Round(time.Millisecond))
	}
	return err
}

// saveInterval writes a checkpoint between steps, if it is time. In the background it waits only until the state is copied, and until
// the save before has ended. A save that fails is no reason to stop: the checkpoints before it are as they were.
func (t *Trainer) saveInterval() error {
	every := t.Config.Checkpoint.Interval
	if every == 0 || t.next%every > 0 || t.next == t.Config.Train.Steps {
		return nil
	}
	started := time.Now()
	if !t.copies() {
		if err := t.save(); err != nil {
			t.Log.Error("a checkpoint failed; the run goes on", "error", err)
		}
	} else if err := t.saveCopy(started); err != nil {
		return err
	}
	c := monitor.Checkpoint{Step: t.next, Stall: time.Since(started)}
	return t.report(func(s monitor.Sink) error { return s.Checkpoint(c) })
}

// saveCopy copies the state and writes the copy in the background.
func (t *Trainer) saveCopy(started time.Time) error {
	t.store.Wait()
	t.exchange.settle()
	snapshot := &checkpoint.Snapshot{Step: t.next, Record: t.record}
	left := t.saved.copied
	for i, share := range t.saved.shares {
		region := t.shareOf(i)
		copied := left[:region.Bytes:region.Bytes]
		if err := t.Device.Read(t.Stream, copied, region); err != nil {
			return err
		}
		left = left[region.Bytes:]
		snapshot.Pieces = append(snapshot.Pieces, checkpoint.Piece{Part: share, Data: safetensors.Bytes(copied)})
	}
	dir, stall := t.store.Path(t.next), time.Since(started)
	within := time.Since(t.saved.at) / 2
	t.saved.at = time.Now()
	t.store.SaveAsync(snapshot, checkpoint.Background{Share: float64(t.Threads) / writingShare, Within: within}, func(err error) {
		if err != nil {
			t.Log.Error("a checkpoint failed; the run goes on", "error", err)
			return
		}
		t.Log.Info("a checkpoint is written", "to", dir, "steps waited", stall.Round(time.Millisecond), "time", time.Since(started).Round(time.Millisecond))
	})
	return nil
}

// writingShare is for how many threads that compute a thread may write a checkpoint beside them all the time.
const writingShare = 32

// shareOf returns where this rank's share of a tensor of the state is.
func (t *Trainer) shareOf(i int) device.Region {
	tensor, share := t.saved.tensors[i], t.saved.shares[i].Slice
	size := tensor.Value.DType.Size()
	from := (share.Begin - tensor.Slice.Begin) * size
	return tensor.Value.Region().Slice(from, from+share.Len()*size)
}

// pieceBytes is how much of a tensor is in host memory while it is written to a file.
const pieceBytes = 1 << 20

// writer returns what writes a region's bytes, reading them from the device piece by piece.
func (t *Trainer) writer(r device.Region) func(w io.Writer) error {
	return func(w io.Writer) error {
		piece := make([]byte, min(pieceBytes, r.Bytes))
		for from := 0; from < r.Bytes; from += len(piece) {
			piece = piece[:min(len(piece), r.Bytes-from)]
			if err := t.Device.Read(t.Stream, piece, r.Slice(from, from+len(piece))); err != nil {
				return err
			}
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

// checkpointDir is where the run's checkpoints are.
func (t *Trainer) checkpointDir() string {
	return filepath.Join(t.Config.Run.OutputDir, "checkpoints")
}

// resume loads the state to go on from, if there is one: all ranks their slices of the same checkpoint, whatever layout has written
// it. Rank 0 compares it with the run.
func (t *Trainer) resume() (bool, error) {
	resume := t.Config.Checkpoint.Resume
	if t.Config.Run.Mode == "evaluate" || resume == "none" {
		return false, nil
	}
	want := checkpoint.Want{Parts: func(*checkpoint.Loaded) []checkpoint.Part { return t.saved.parts }, Accept: t.compare, Read: t.restore}
	if resume != "auto" {
		want.Dir = resume
		want.Accept = func(l *checkpoint.Loaded) error { return errors.Join(t.compare(l), t.checkNewest(l)) }
	}
	dir, step, err := t.store.Restore(context.Background(), want)
	if errors.Is(err, checkpoint.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, &ConfigurationError{Key: "checkpoint.resume", Err: err}
	}
	t.next, t.resumedAt, t.saved.dir = step, step, dir
	t.Log.Info("the run goes on from a checkpoint", "step", step, "from", dir)
	return true, nil
}

// restore reads this rank's part of the state.
func (t *Trainer) restore(from *checkpoint.Loaded) error {
	err := from.Read(t.saved.parts, func(i, at int, elements []byte) error {
		v := t.saved.tensors[i].Value
		at *= v.DType.Size()
		t.Device.Write(t.Stream, v.Region().Slice(at, at+len(elements)), elements)
		return nil
	})
	return errors.Join(err, t.Stream.Synchronize())
}

// checkNewest refuses to go on from a named checkpoint where output_dir holds later ones: they would be taken for this run's.
func (t *Trainer) checkNewest(loaded *checkpoint.Loaded) error {
	newest, found, err := t.store.NewestStep()
	if err != nil || !found || newest <= loaded.Step {
		return err
	}
	return fmt.Errorf("%s is of step %d, but %s already goes to step %d; choose another run.output_dir", loaded.Dir, loaded.Step, t.checkpointDir(), newest)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
