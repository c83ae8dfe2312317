package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"

	"lockstep/spmd/model"
	"lockstep/spmd/pipeline"
)

// StageLayers says how many transformer layers each chunk of a pipeline has: Counts, or as Auto finds out; neither means as even
// as can be.
type StageLayers struct {
	Counts []int
	Auto   bool
}

// autoLayers is the value that stands for Auto.
const autoLayers = "auto"

func (s StageLayers) toml() string {
	if s.Auto {
		return quote(autoLayers)
	}
	return tomlValue(reflect.ValueOf(s.Counts))
}

// decodeStageLayers stores parallel.stage_layers.
func (l *loader) decodeStageLayers(k key, field reflect.Value, v any) {
	if v == autoLayers {
		field.Set(reflect.ValueOf(StageLayers{Auto: true}))
		return
	}
	values, ok := v.([]any)
	if !ok {
		l.wrongType(k, v)
		return
	}
	var counts []int
	for i, v := range values {
		n, ok := v.(int64)
		if !ok || !k.bounds.contains(float64(n)) {
			l.problem(k.String(), fmt.Sprintf("number %d of the list is %s", i+1, describe(v)), "set it to "+l.legal(k))
			return
		}
		counts = append(counts, int(n))
	}
	field.Set(reflect.ValueOf(StageLayers{Counts: counts}))
}

// checkPipeline checks that the schedule fits the stages and the micro batches of a data rank, and makes it. dataRanks is 0 where
// their number is not known.
func (l *loader) checkPipeline(dataRanks int) {
	if !l.usable("parallel.pipeline", "parallel.pipeline_schedule", "parallel.virtual_stages") {
		return
	}
	p := &l.config.Parallel
	g, named := pipeline.Generators()[p.PipelineSchedule]
	if !named {
		l.readSchedule(dataRanks)
		return
	}
	switch {
	case g.Virtual == 0 && p.VirtualStages < 2:
		l.problem("parallel.virtual_stages", fmt.Sprintf("%s needs 2 or more chunks of layers on each rank", quote(p.PipelineSchedule)), `use 2, or pipeline_schedule = "1f1b"`)
		return
	case g.Virtual > 0 && l.set["parallel.virtual_stages"] && p.VirtualStages != g.Virtual:
		l.problem("parallel.virtual_stages", fmt.Sprintf("%s has %d on each rank, not %d", quote(p.PipelineSchedule), g.Virtual, p.VirtualStages),
			fmt.Sprintf(`use %d, or pipeline_schedule = "interleaved-1f1b"`, g.Virtual))
		return
	case g.Virtual > 0:
		p.VirtualStages = g.Virtual
	}
	if least := g.Least(p.Pipeline); dataRanks > 0 && l.usable("train.global_batch_size", "train.micro_batch_size") {
		unit := l.config.Train.MicroBatchSize * dataRanks
		if n := l.config.Train.GlobalBatchSize / unit; n < least {
			l.problem("parallel.pipeline_schedule", fmt.Sprintf("%s of %d stages needs %d micro batches on each data rank, and the batch has %d",
				quote(p.PipelineSchedule), p.Pipeline, least, n), fmt.Sprintf("use train.global_batch_size = %d or more, or \"zb-v\"", least*unit))
		}
	}
}

// readSchedule reads a schedule from its file.
func (l *loader) readSchedule(dataRanks int) {
	p := &l.config.Parallel
	s, err := pipeline.ReadCSV(p.PipelineSchedule)
	if err == nil {
		l.config.Table = s
		_, err = pipeline.Simulate(s, s.NumChunks(), s.NumMicroBatches(), pipeline.UnitCosts(s.NumChunks()))
	}
	if err != nil {
		names := slices.Sorted(maps.Keys(pipeline.Generators()))
		remedy := "correct the file, or use " + list(quoted(names))
		if near, ok := nearest(p.PipelineSchedule, names); ok && errors.Is(err, fs.ErrNotExist) {
			remedy = "did you mean " + quote(near) + "?"
		}
		l.problem("parallel.pipeline_schedule", err.Error(), remedy)
		return
	}
	if len(s) != p.Pipeline {
		l.problem("parallel.pipeline", fmt.Sprintf("%d stages, but %s has rows for %d", p.Pipeline, p.PipelineSchedule, len(s)), fmt.Sprintf("use %d", len(s)))
	}
	if dataRanks > 0 && l.usable("train.global_batch_size", "train.micro_batch_size") {
		unit, n := l.config.Train.MicroBatchSize*dataRanks, s.NumMicroBatches()
		if l.config.Train.GlobalBatchSize/unit != n {
			l.problem("train.global_batch_size", fmt.Sprintf("%d is %d micro batches on each data rank, but %s has %d", l.config.Train.GlobalBatchSize,
				l.config.Train.GlobalBatchSize/unit, p.PipelineSchedule, n), fmt.Sprintf("use %d", n*unit))
		}
	}
}

// checkStages checks that the model's layers can be cut in the chunks of the pipeline.
func (l *loader) checkStages() {
	if !l.usable("parallel.pipeline", "parallel.pipeline_schedule", "parallel.virtual_stages", "parallel.stage_layers") {
		return
	}
	p, layers := l.config.Parallel, l.config.Architecture.NumHiddenLayers
	chunks := p.Pipeline * p.VirtualStages
	if l.config.Table != nil {
		chunks = l.config.Table.NumChunks()
	}
	counts := p.StageLayers.Counts
	if counts == nil {
		if chunks > layers {
			l.problem("parallel.pipeline", fmt.Sprintf("%d chunks of layers are more than the model's %d layers", chunks, layers),
				fmt.Sprintf("use at most %d, or say in parallel.stage_layers which chunks have none", max(1, layers*p.Pipeline/chunks)))
		}
		return
	}
	sum := 0
	for i, n := range counts {
		sum += n
		if n == 0 && i > 0 && i < len(counts)-1 {
			l.problem("parallel.stage_layers", fmt.Sprintf("chunk %d has no layer, and neither embedding nor head", i), "give it one")
			return
		}
	}
	switch {
	case len(counts) != chunks:
		l.problem("parallel.stage_layers", fmt.Sprintf("has %d numbers for %d chunks", len(counts), chunks), "give one for each chunk, along the model")
	case sum != layers:
		l.problem("parallel.stage_layers", fmt.Sprintf("makes %d layers, and the model has %d", sum, layers), fmt.Sprintf("use numbers that make %d", layers))
	}
}

// Schedules returns the order of passes of a pipeline's ranks for a number of micro batches.
func (c *Config) Schedules(microBatches int) pipeline.Schedule {
	p := c.Parallel
	if c.Table != nil {
		return c.Table
	}
	if p.InterleaveMicroBatches {
		return pipeline.Turns(microBatches)
	}
	return pipeline.Generators()[p.PipelineSchedule].Make(pipeline.Shape{Ranks: p.Pipeline, Virtual: p.VirtualStages, MicroBatches: microBatches})
}

// ChunkLayers returns the number of transformer layers of each chunk, of a model with the given costs of all layers.
func (c *Config) ChunkLayers(chunks int, costs []model.Cost) []int {
	switch s := c.Parallel.StageLayers; {
	case s.Auto:
		return model.Balanced(costs, chunks)
	case s.Counts != nil:
		return s.Counts
	}
	counts := make([]int, chunks)
	for i := range counts {
		counts[i] = (c.Architecture.NumHiddenLayers + chunks - 1 - i) / chunks
	}
	return counts
}
