package train

import (
	"fmt"
	"strings"

	"lockstep/spmd/config"
	"lockstep/spmd/data"
	"lockstep/spmd/mesh"
	"lockstep/spmd/pipeline"
)

// batch fills this rank's given micro batch of a step. What documents change follows from the ids alone, so it is the same
// for every layout and needs no record.
func (t *Trainer) batch(d *data.Dataset, step, microBatch int, b pipeline.Batch) error {
	first := t.Mesh.Coordinate(mesh.Data) * t.MyMicroBatches
	if err := d.Batch(step, first+microBatch, t.MicroBatches, b.IDs, b.Labels); err != nil {
		return err
	}
	length, eod := t.Size.Sequence, int32(t.Config.Data.EOD)
	if b.Documents != nil {
		data.DocumentStarts(b.Documents, b.IDs, length, eod)
	}
	if b.Positions != nil {
		data.DocumentPositions(b.Positions, b.IDs, length, eod)
	}
	if t.Config.Data.EODMaskLoss {
		data.MaskLabels(b.Labels, b.IDs, eod)
	}
	return nil
}

// labels returns the number of label tokens of a step, over all ranks: each rank counts them all, which costs little next
// to training on them and needs no exchange before the step's first forward pass.
func (t *Trainer) labels(d *data.Dataset, step int) (int64, error) {
	tokens := t.Config.TokensPerStep()
	if !t.Config.Data.EODMaskLoss {
		return tokens, nil
	}
	masked, err := d.CountInputs(step, t.Config.Train.GlobalBatchSize, int32(t.Config.Data.EOD))
	if err == nil && masked == tokens {
		t.Log.Warn("a batch has no label token, only ends of documents: its loss counts as 0 and it has no gradient", "batch", step+1)
	}
	return tokens - masked, err
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
	return fmt.Sprintf("each ends with token %d, where these end too: %s", d.EOD, strings.Join(stops, ", "))
}

// mean returns the mean over n label tokens, 0 where there are none.
func mean(sum float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
