package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"lockstep/spmd/model"
)

// readme makes configs/README.md.
func readme(root string) ([]byte, error) {
	list, err := recipes(root)
	if err != nil {
		return nil, err
	}
	evidence, err := curves(root)
	if err != nil {
		return nil, err
	}
	runs, err := publishedRuns(root, list)
	if err != nil {
		return nil, err
	}
	evidence = append(evidence, runs...)
	var b bytes.Buffer
	b.WriteString(head)
	writeSmall(&b, list, evidence)
	writePublished(&b, list, evidence)
	fmt.Fprintf(&b, levels, releasedSteps, validatedSteps)
	writeFamilies(&b, evidence)
	writeFeatures(&b, evidence)
	b.WriteString(tail)
	return b.Bytes(), nil
}

const head = `# Recipes and support levels

<!-- Made from the recipes and the recorded reference curves by "go generate ./configs/gen"; do not edit. -->

One TOML per recipe; every key is explained in [docs/config.md](../docs/config.md).

## Small ones, to run anywhere

Two CPU cores and a few minutes; bytes as tokens, and Go's own sources to learn from.

| recipe | what it is | ` + "`model_type`" + ` | parameters | needs | level |
|---|---|---|---|---|---|
`

const published = `
## Published shapes

The shapes are those of the published config.json, and so are the numbers of parameters, to the last one. Paths of data are
placeholders. What a recipe needs is that of the rank that holds most, in float32, with gradients and AdamW's state. Checkpoints that are
written in the background take a copy of what a rank writes besides.

| recipe | what it is | ` + "`model_type`" + ` | parameters | needs | level |
|---|---|---|---|---|---|
`

const levels = `
## What is supported, and how we know

| level | what earned it |
|---|---|
| Released | loss and gradient norm of a deterministic run of %d steps or more, of the published shape itself, on the curve of PyTorch; both are stored in ` + "`configs/curves`" + ` |
| Validated | the same for %d steps or more of small models: loss within 2e-5 and gradient norm within 2e-4 of PyTorch, relative, in every step; each feature that the model needs is in such a run, and so is its family |
| Preliminary | is trained in the tests; something that it needs has no reference curve |
| Untested | should work: built from parts that are validated elsewhere |
| Community | contributed and maintained outside the project |

No level is written by hand: it follows from the curves in ` + "`spmd/train/testdata/golden`" + `, on which the tests of ` + "`spmd/train`" + ` hold every
step, and from what a configuration needs. All are for float32 on CPUs.

| ` + "`model_type`" + ` | models | level | curves, and their steps | made with |
|---|---|---|---|---|
`

const tail = `
Models trained by Lockstep have been loaded in Transformers and gave the same loss on the same batch; the loss and greedy text of
SmolLM2-135M-Instruct are those of Transformers: [docs/verification.md](../docs/verification.md). Refused by name: sliding-window
attention, biases in the feed-forward layers, RoPE types other than ` + "`default`, `linear`, `llama3` and `yarn`" + `, quantized weights.
`

// models are those that are known by a model_type.
func models() map[string]string {
	return map[string]string{
		"llama": "Llama 2, 3, 3.1, 3.2 and 3.3, SmolLM2, and others of this architecture", "qwen2": "Qwen2, Qwen2.5", "qwen3": "Qwen3, dense",
		"qwen3_moe": "Qwen3-MoE", "deepseek_v2": "DeepSeek-V2", "deepseek_v3": "DeepSeek-V3, R1",
	}
}

func writeSmall(w io.Writer, list []*recipe, evidence []*curve) {
	for _, r := range list {
		if r.small() {
			writeRecipe(w, r, evidence, "less than "+size(smallMemory)+" a rank")
		}
	}
}

func writePublished(w io.Writer, list []*recipe, evidence []*curve) {
	list = slices.DeleteFunc(slices.Clone(list), (*recipe).small)
	slices.SortFunc(list, func(a, b *recipe) int { return a.model.NumParameters() - b.model.NumParameters() })
	io.WriteString(w, published)
	for _, r := range list {
		writeRecipe(w, r, evidence, fmt.Sprintf("%v: %s a rank", r.mesh, size(r.memory.Total())))
	}
}

func writeRecipe(w io.Writer, r *recipe, evidence []*curve, needs string) {
	family, n := r.config.Architecture.Family, r.model.NumParameters()
	l, why := recipeLevel(r, evidence)
	if why != "" {
		why = "; " + why
	}
	fmt.Fprintf(w, "| [%s](%[1]s.toml) | %s | `%s` | %s | %s | %s%s |\n", r.name, r.title, family, short(n), needs, l, why)
}

func writeFamilies(w io.Writer, evidence []*curve) {
	known := models()
	for _, family := range model.Families() {
		var runs, references []string
		for _, c := range evidence {
			if c.family == family {
				runs = append(runs, fmt.Sprintf("`%s` %d", c.name, c.steps))
				references = append(references, c.reference)
			}
		}
		slices.Sort(references)
		l, _ := levelOf(family, nil, 0, false, evidence)
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", family, known[family], l, strings.Join(runs, ", "), strings.Join(slices.Compact(references), "; "))
	}
}

// writeFeatures lists what the curves have in them.
func writeFeatures(w io.Writer, evidence []*curve) {
	where := map[string][]string{}
	for _, c := range evidence {
		if c.steps < validatedSteps {
			continue
		}
		for name := range c.features {
			where[name] = append(where[name], "`"+c.name+"`")
		}
	}
	fmt.Fprint(w, "\n| feature | in the curves |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(where)) {
		fmt.Fprintf(w, "| %s | %s |\n", name, strings.Join(where[name], ", "))
	}
	for _, scaling := range []string{"default", "linear", "llama3", "yarn"} {
		if name := scaling + " RoPE"; where[name] == nil {
			fmt.Fprintf(w, "\nIn no curve: %s, of which only the tables are tested, against Transformers' formula.\n", name)
		}
	}
}

// short writes a number of parameters.
func short(n int) string { return scaled(n, 1000, 3, "", "k", "M", "B") }

// size writes a number of bytes. Two digits are what a user needs; more would change with every kernel's workspace.
func size(n int) string { return scaled(n, 1024, 2, "B", "KiB", "MiB", "GiB", "TiB") }

// scaled writes n with some digits, in the first of the units, each factor times the one before, in which it is below a thousand.
func scaled(n int, factor float64, digits int, units ...string) string {
	v, i := float64(n), 0
	for ; v >= 999.5 && i < len(units)-1; i++ {
		v /= factor
	}
	step := math.Pow(10, math.Floor(math.Log10(v))-float64(digits-1))
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", math.Round(v/step)*step, units[i]))
}
