package train

import "lockstep/spmd/mesh"

// openTensorGroups makes the group of the ranks that share matrices. A step waits for what they exchange, unless micro batches are
// interleaved: then each of two contexts has a group of its own, whose exchanges go on beside the computation of the other.
func (t *Trainer) openTensorGroups() error {
	if t.Mesh.Size(mesh.Tensor) == 1 {
		return nil
	}
	names := []string{"tensor"}
	if t.Config.Parallel.InterleaveMicroBatches {
		names = append(names, "tensor, other micro batches")
	}
	for i, name := range names {
		group, err := t.World.NewGroup(name, t.Mesh.Ranks(mesh.Tensor))
		if err != nil {
			return err
		}
		if t.tensor[i] = group; len(names) == 1 {
			t.tensor[i] = group.Blocking()
		}
	}
	return nil
}
