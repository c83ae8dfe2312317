package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// publishedParameters are the numbers of parameters of the published weights, as the hub counts them (tied tables once).
var publishedParameters = map[string]int{
	"llama-3.2-1b": 1_235_814_400, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496,
	"smollm2-135m": 134_515_008, "qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096,
	"qwen3-8b": 8_190_735_360, "qwen3-14b": 14_768_307_200, "qwen3-32b": 32_762_123_264,
	"qwen3-30b-a3b": 30_532_122_624, "qwen3-235b-a22b": 235_093_634_560,
	// The model proper, with its routers' biases, and the module of multi-token prediction.
	"deepseek-v3": 671_026_419_200 + 11_610_068_224,
}

// TestRecipes checks every recipe as spmd check does, and its size.
func TestRecipes(t *testing.T) {
	list, err := recipes(root)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range list {
		want, isPublished := publishedParameters[r.name]
		if isPublished == r.small() {
			t.Errorf("%s is neither a small recipe nor one of a published shape, or both", r.name)
		}
		if r.small() && r.memory.Total() > smallMemory {
			t.Errorf("%s takes %s a rank", r.name, size(r.memory.Total()))
		}
		if isPublished {
			found++
			if got := r.model.NumParameters(); got != want {
				t.Errorf("%s has %d parameters, %d were published", r.name, got, want)
			}
		}
		if want := "outputs/" + r.name; !strings.Contains(r.text, `output_dir = "`+want+`"`) {
			t.Errorf("%s: run.output_dir is not %s", r.name, want)
		}
		if r.memory.Total() > rankMemory {
			t.Errorf("%s takes %s a rank", r.name, size(r.memory.Total()))
		}
	}
	if found != len(publishedParameters) {
		t.Errorf("%d recipes of published shapes, want %d", found, len(publishedParameters))
	}
}

// TestReadme checks that the page is current.
func TestReadme(t *testing.T) {
	want, err := readme(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "configs/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("configs/README.md is not what the recipes and the reference curves make it; run go generate ./configs/gen")
	}
}

// TestLevels holds the rules against evidence of every kind.
func TestLevels(t *testing.T) {
	run := func(family string, steps, parameters int, names ...string) *curve {
		c := &curve{family: family, steps: steps, parameters: parameters, features: features{}}
		for _, name := range names {
			c.features[name] = true
		}
		return c
	}
	wanted := features{"a": true, "b": true}
	for name, c := range map[string]struct {
		evidence []*curve
		trained  bool
		want     level
	}{
		"nothing":                          {nil, false, untested},
		"trained":                          {nil, true, preliminary},
		"short":                            {[]*curve{run("f", validatedSteps-1, 7, "a", "b")}, false, untested},
		"one curve":                        {[]*curve{run("f", validatedSteps, 7, "a", "b")}, false, validated},
		"two curves":                       {[]*curve{run("f", validatedSteps, 7, "a"), run("g", validatedSteps, 7, "b")}, false, validated},
		"a feature is missing":             {[]*curve{run("f", validatedSteps, 7, "a")}, false, untested},
		"a feature is missing, trained":    {[]*curve{run("f", validatedSteps, 7, "a")}, true, preliminary},
		"another family":                   {[]*curve{run("g", releasedSteps, 8, "a", "b")}, false, untested},
		"long, small":                      {[]*curve{run("f", releasedSteps, 7, "a", "b")}, false, validated},
		"the shape, short":                 {[]*curve{run("f", releasedSteps-1, 8, "a", "b")}, false, validated},
		"the shape, long":                  {[]*curve{run("f", releasedSteps, 8, "a", "b")}, false, released},
		"the shape, long, without feature": {[]*curve{run("f", releasedSteps, 8, "a"), run("g", releasedSteps, 7, "b")}, false, validated},
	} {
		got, why := levelOf("f", wanted, 8, c.trained, c.evidence)
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if (why == "") != (got == released || got == validated) {
			t.Errorf("%s: %s, because %q", name, got, why)
		}
	}
}

// TestFollows holds a run beside a reference that it follows, and leaves in each way.
func TestFollows(t *testing.T) {
	var reference stored
	if err := json.Unmarshal([]byte(`{"steps": [{"step": 1, "loss": 2, "grad_norm": 3}, {"step": 2, "loss": 1, "grad_norm": 1}]}`), &reference); err != nil {
		t.Fatal(err)
	}
	const first = `{"step": 1, "loss": 2.00003, "grad_norm": 3.0005}` + "\n"
	for name, c := range map[string]struct {
		metrics string
		follows bool
	}{
		"on the curve":      {first + `{"step": 1, "validation_loss": 7}` + "\n" + `{"step": 2, "loss": 1, "grad_norm": 1}`, true},
		"loss":              {first + `{"step": 2, "loss": 1.00003, "grad_norm": 1}`, false},
		"gradient norm":     {first + `{"step": 2, "loss": 1, "grad_norm": 1.0003}`, false},
		"a step is missing": {first, false},
		"another step":      {first + `{"step": 3, "loss": 1, "grad_norm": 1}`, false},
		"no JSON":           {first + `{"step"`, false},
	} {
		if err := follows([]byte(c.metrics), &reference); (err == nil) != c.follows {
			t.Errorf("%s: %v", name, err)
		}
	}
}
