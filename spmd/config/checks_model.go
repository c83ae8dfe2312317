package config

import (
	"errors"
	"fmt"
	"path/filepath"

	"lockstep/spmd/checkpoint"
	"lockstep/spmd/model"
)

// checkModel reads the model's config.json and checks what the run asks of it.
func (l *loader) checkModel() {
	c := l.config
	if !l.usable("model.path", "model.config", "model.overrides") {
		return
	}
	var problems []model.Problem
	if c.Model.Config != nil {
		if len(c.Model.Overrides) > 0 {
			l.problem("model.overrides", "changes the config.json in model.path, and there is none", "write the keys into [model.config]")
			return
		}
		c.Architecture, problems = model.ParseConfig(c.Model.Config)
	} else {
		c.Architecture, problems = model.ReadConfig(c.Model.Path, c.Model.Overrides)
	}
	for _, p := range problems {
		l.modelProblem(p.Key, p.What, p.Remedy)
	}
	if c.Architecture == nil {
		return
	}
	l.checkVocabulary()
	l.checkPositions()
	l.checkRecompute()
	l.checkContext()
	l.checkStages()
	l.checkExperts()
	l.checkExpertRanks()
	l.checkPrediction()
	l.checkTensor()
	if c.Model.Path != "" {
		l.checkWeights()
	}
	l.checkTuning()
}

// modelProblem reports a mistake in config.json at the key in the configuration that it comes from.
func (l *loader) modelProblem(name, what, remedy string) {
	_, overridden := l.config.Model.Overrides[name]
	switch {
	case l.config.Model.Config != nil && name != "":
		l.problemAt([]string{"model", "config", name}, what, remedy)
	case l.config.Model.Config != nil:
		l.problemAt([]string{"model", "config"}, what, remedy)
	case overridden:
		l.problemAt([]string{"model", "overrides", name}, what, remedy)
	case name != "":
		l.problemAt([]string{"model", "path"}, fmt.Sprintf("%s: %s: %s", filepath.Join(l.config.Model.Path, "config.json"), tomlKey(name), what), remedy)
	default:
		l.problemAt([]string{"model", "path"}, what, remedy)
	}
}

// checkVocabulary checks that the model has a row for every id that the tokens can have.
func (l *loader) checkVocabulary() {
	size := l.config.Architecture.VocabSize
	if t := l.config.Tokenizer; t != nil && l.usable("data.tokenizer", "data.format") && size < t.VocabSize() {
		l.modelProblem("vocab_size", fmt.Sprintf("%d is too small for data.tokenizer = %s, which has %d ids", size, quote(l.config.Data.Tokenizer), t.VocabSize()),
			fmt.Sprintf("use at least %d", t.VocabSize()))
		return
	}
	if eod := l.config.Data.EOD; l.usable("data.eod") && eod >= size {
		l.problem("data.eod", fmt.Sprintf("%d is not below the model's vocab_size = %d", eod, size), fmt.Sprintf("use at most %d", size-1))
	}
}

// checkPositions checks that the model has positions for a whole sample.
func (l *loader) checkPositions() {
	positions, length := l.config.Architecture.MaxPositionEmbeddings, l.config.Data.SequenceLength
	if l.usable("data.sequence_length") && length > positions {
		l.problem("data.sequence_length", fmt.Sprintf("%d is more than the model's max_position_embeddings = %d", length, positions),
			fmt.Sprintf("use at most %d, or raise max_position_embeddings in model.overrides or [model.config]", positions))
	}
}

// checkRecompute checks that recompute.layers names layers of the model.
func (l *loader) checkRecompute() {
	r, layers := l.config.Recompute, l.config.Architecture.NumHiddenLayers
	if !l.usable("recompute.mode", "recompute.layers") || r.Layers == nil {
		return
	}
	if r.Mode == "none" {
		l.problem("recompute.layers", `is not used by recompute.mode = "none"`, "remove it, or set recompute.mode")
	}
	if _, err := r.Selected(layers); err != nil {
		l.problem("recompute.layers", err.Error(), fmt.Sprintf(`use numbers from 0 to %d and ranges such as "0-%d"`, layers-1, layers-1))
	}
}

// checkPrediction tells the model whether it predicts further tokens.
func (l *loader) checkPrediction() {
	weight := l.config.Train.MTPLossWeight
	if weight == 0 || !l.usable("train.mtp_loss_weight") {
		return
	}
	if l.config.Architecture.Predictors == 0 {
		l.problem("train.mtp_loss_weight", "the model has no modules of multi-token prediction", "remove it, or set num_nextn_predict_layers in model.overrides or [model.config]")
		return
	}
	l.config.Architecture.PredictionLossWeight = weight
}

// checkWeights looks for weights in model.path and checks that they are the model's: every tensor by name and shape.
func (l *loader) checkWeights() {
	m := l.config.Model
	if !l.usable("model.init", "run.mode") || m.Init == "random" {
		return
	}
	if checkpoint.HasWeights(m.Path) {
		if err := l.compareWeights(m.Path); err != nil {
			l.problem("model.path", err.Error(), `give the config.json and the weights of one model, or ignore the weights with model.init = "random"`)
		}
		return
	}
	switch l.config.Run.Mode {
	case "evaluate":
		l.problem("model.path", "has no weights (*.safetensors) to evaluate", "give a directory with weights")
	case "finetune":
		l.note("model.path", "has no weights (*.safetensors): the run starts from random ones")
	}
}

func (l *loader) compareWeights(dir string) error {
	weights, err := checkpoint.OpenWeights(dir)
	if err != nil {
		return err
	}
	note, err := model.New(l.config.Architecture, model.Partition{}).CheckWeights(weights)
	if note != "" {
		l.note("model.path", "%s", note)
	}
	return errors.Join(err, weights.Close())
}
