package train

import (
	"fmt"
	"strings"

	"lockstep/spmd/config"
	"lockstep/spmd/data"
	"lockstep/spmd/mesh"
	"lockstep/spmd/pipeline"
)

// batch fills this rank's given micro batch of a step, the same samples for every layout.
func (t *Trainer) batch(d *data.Dataset, step, microBatch int, b pipeline.Batch) error {
	first := t.Mesh.Coordinate(mesh.Data) * t.MyMicroBatches
	return d.Batch(step, first+microBatch, t.MicroBatches, data.Rows{IDs: b.IDs, Labels: b.Labels, Starts: b.Documents, Positions: b.Positions})
}

// sample returns the number, in the run, of this rank's first sample of a step.
func (t *Trainer) sample(step int) int64 {
	perRank := t.MyMicroBatches * t.Config.Train.MicroBatchSize
	return int64(step)*int64(t.Config.Train.GlobalBatchSize) + int64(t.Mesh.Coordinate(mesh.Data)*perRank)
}

// labels returns the number of label tokens of a step, over all ranks: each rank counts them all, which costs little next
// to training on them and needs no exchange before the step's first forward pass.
func (t *Trainer) labels(d *data.Dataset, step int) (int64, error) {
	n, err := d.Labels(step, t.Config.Train.GlobalBatchSize)
	if err == nil && n == 0 {
		t.Log.Warn("a batch has no label token: its loss counts as 0 and it has no gradient", "batch", step+1)
	}
	return n, err
}

// describeDocuments says what stops at the ends of documents, "" where nothing does.
func describeDocuments(d config.Data) string {
	var stops []string
	for _, stop := range []struct {
		on   bool
		what string
	}{{d.ResetAttentionMask, "attention"}, {d.ResetPositionIDs, "positions"}, {d.EODMaskLoss, "loss"}} {
		if stop.on {
			stops = append(stops, stop.what)
		}
	}
	if stops == nil {
		return ""
	}
	if d.Packing != "concat" {
		return "each is whole, or a piece, in its sample, and with it end: " + strings.Join(stops, ", ")
	}
	return fmt.Sprintf("each ends with token %d, where these end too: %s", d.EOD, strings.Join(stops, ", "))
}

// mean returns the mean over n label tokens, 0 where there are none.
func mean(sum float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
