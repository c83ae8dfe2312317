package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

// The published shapes are too large for the tests, and their weights for the repository. So both curves of such a run are stored
// in configs/curves: RECIPE.json is PyTorch's, RECIPE.jsonl the metrics of Lockstep's run of the recipe. This page is not made
// when the one leaves the other.

// Tolerances of a step, relative.
const (
	lossTolerance = 2e-5
	normTolerance = 2e-4
)

// publishedRuns reads the stored runs of recipes.
func publishedRuns(root string, list []*recipe) (runs []*curve, err error) {
	for _, r := range list {
		path := filepath.Join(root, "configs/curves", r.name)
		if _, err := os.Stat(path + ".json"); err != nil {
			continue
		}
		reference, err := readStored(path + ".json")
		if err != nil {
			return nil, err
		}
		metrics, err := os.ReadFile(path + ".jsonl")
		if err != nil {
			return nil, err
		}
		if err := follows(metrics, &reference); err != nil {
			return nil, fmt.Errorf("%s.jsonl: %w", path, err)
		}
		runs = append(runs, reference.curve(r.name, r.config.Architecture))
	}
	return runs, nil
}

// follows returns an error where a step of a run's metrics is not on the reference curve.
func follows(metrics []byte, reference *stored) error {
	type step struct {
		Step     int     `json:"step"`
		Loss     float64 `json:"loss"`
		GradNorm float64 `json:"grad_norm"`
	}
	steps := map[int]step{}
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		var s step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return err
		}
		if s.Loss > 0 { // no validation
			steps[s.Step] = s
		}
	}
	if len(steps) != len(reference.Steps) {
		return fmt.Errorf("it has %d steps, the reference %d", len(steps), len(reference.Steps))
	}
	for _, want := range reference.Steps {
		got := steps[want.Step]
		// Written so that a value that is no number fails.
		if !(math.Abs(got.Loss-want.Loss) <= lossTolerance*want.Loss && math.Abs(got.GradNorm-want.GradNorm) <= normTolerance*want.GradNorm) {
			return fmt.Errorf("step %d has loss %v and gradient norm %v, the reference %v and %v", want.Step, got.Loss, got.GradNorm, want.Loss, want.GradNorm)
		}
	}
	return nil
}
