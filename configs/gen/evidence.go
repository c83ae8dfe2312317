package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/spmd/model"
)

// A curve is a run of a reference implementation, stored with the tests that hold Lockstep against it.
type curve struct {
	name       string
	family     string // model_type
	parameters int
	steps      int    // that have a loss and a gradient norm
	reference  string // the software and its versions
	features   features
}

// stored is what reference scripts write.
type stored struct {
	Args struct {
		LoRARank    int     `json:"lora_rank"`
		EODMask     int     `json:"eod_mask"`
		EODMaskLoss bool    `json:"eod_mask_loss"`
		AuxCoef     float64 `json:"aux_coef"`
		MTP         float64 `json:"mtp"`
		Sequence    float64 `json:"sequence"`
		Z           float64 `json:"z"`
		Rate        float64 `json:"rate"`
	} `json:"args"`
	Versions map[string]string `json:"versions"`
	Steps    []struct {
		Step     int     `json:"step"`
		Loss     float64 `json:"loss"`
		GradNorm float64 `json:"grad_norm"`
	} `json:"steps"`
}

// readStored reads what a reference script has written.
func readStored(path string) (s stored, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return s, err
}

// curve returns the curve of a model that s is of.
func (s *stored) curve(name string, a *model.Config) *curve {
	c := &curve{name: name, family: a.Family, parameters: model.New(a, model.Partition{}).NumParameters(), features: architectureFeatures(a)}
	c.reference, _, _ = strings.Cut("PyTorch "+s.Versions["torch"], "+") // the build
	if v := s.Versions["transformers"]; v != "" {
		c.reference += ", Transformers " + v
	}
	for _, step := range s.Steps {
		if step.Loss > 0 && step.GradNorm > 0 {
			c.steps++
		}
	}
	f, args := c.features, s.Args
	f.add(args.EODMaskLoss || args.EODMask > 0, featureDocuments, "")
	f.add(args.LoRARank > 0, featureLoRA, "")
	f.add(args.MTP > 0, featurePrediction, "")
	f.add(args.Rate > 0, featureBias, "")
	f.add(args.Z > 0, featureZLoss, "")
	f.add(args.AuxCoef > 0, featureAuxLoss+"hf", "")
	f.add(args.Sequence > 0, featureAuxLoss+"sequence", "")
	return c
}

// curves reads the golden runs of package train, sorted by name. A curve counts only if the tests of that package name it: they fail
// when a step leaves it.
func curves(root string) ([]*curve, error) {
	dir := filepath.Join(root, "spmd/train")
	tests, err := source(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "testdata/golden")
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var list []*curve
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		// NAME.json is the curve of the model NAME; NAME-variant.json that of the same model in another kind of run.
		directory, variant, _ := strings.Cut(name, "-")
		if !strings.Contains(tests, `"`+directory+`"`) || !strings.Contains(tests, `"-`+variant+`"`) && variant != "" {
			continue
		}
		c, err := readCurve(path, filepath.Join(dir, directory))
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *curve) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// source returns the text of all files that match a pattern.
func source(pattern string) (string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		b.Write(text)
	}
	return b.String(), nil
}

// readCurve reads the curve in a file, of the model in a directory.
func readCurve(path, directory string) (*curve, error) {
	s, err := readStored(path)
	if err != nil {
		return nil, err
	}
	a, problems := model.ReadConfig(directory, nil)
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s: %v", directory, problems[0])
	}
	if s.Args.MTP > 0 {
		a.PredictionLossWeight = s.Args.MTP
	}
	return s.curve(strings.TrimSuffix(filepath.Base(path), ".json"), a), nil
}
