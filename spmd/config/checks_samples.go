package config

import (
	"fmt"
	"math"
	"slices"
)

// checkSamples checks the keys that say how data becomes samples, and in which order.
func (l *loader) checkSamples() {
	d, none := l.config.Data, Default().Data
	for _, used := range []struct {
		key   string
		isSet bool
		by    string
		list  []string
		value string
	}{
		{"data.text_key", d.TextKey != none.TextKey, "data.format", []string{"jsonl", "parquet"}, d.Format},
		{"data.chat_template", d.ChatTemplate != "", "data.format", []string{"chat"}, d.Format},
		{"data.overlong", d.Overlong != none.Overlong, "data.packing", []string{"best-fit", "none"}, d.Packing},
	} {
		if used.isSet && l.usable(used.key, used.by) && !slices.Contains(used.list, used.value) {
			l.problem(used.key, fmt.Sprintf("is not used by %s = %s", used.by, quote(used.value)), "remove it, or use "+list(quoted(used.list)))
		}
	}
	if l.usable("data.text_key") && d.TextKey == "" {
		l.problem("data.text_key", "is empty", "set it to the name of the text's key or column")
	}
	if l.usable("data.order") && d.Order == "megatron" {
		l.checkMegatronOrder()
	}
}

// checkMegatronOrder checks that data and keys are such as Megatron-Core's GPTDataset has them.
func (l *loader) checkMegatronOrder() {
	const key = "data.order"
	c := l.config
	one := len(c.Data.Blend) > 0 || len(c.Data.Paths) <= 1
	for _, b := range c.Data.Blend {
		one = one && len(b.Paths) == 1
	}
	switch {
	case l.usable("data.format", "data.tokenizer") && c.Data.Format == "text" && c.Data.Tokenizer == "bytes":
		l.problem(key, `"megatron" takes token stores, not bytes of text`, "use format megatron, jsonl or parquet")
	case l.usable("data.format", "data.paths", "data.blend") && c.Data.Format == "megatron" && !one:
		l.problem(key, `"megatron" takes one prefix, and one in each part of a blend`, "write each prefix as a [[data.blend]] of its own")
	case l.usable("data.packing") && c.Data.Packing != "concat":
		l.problem(key, `"megatron" joins documents, which packing = `+quote(c.Data.Packing)+" does not", `use packing = "concat"`)
	case l.usable("data.shuffle") && !c.Data.Shuffle:
		l.problem(key, `"megatron" is a random order, and data.shuffle is false`, "remove one of them")
	case l.usable("run.seed") && c.Run.Seed > math.MaxUint32:
		l.problem("run.seed", fmt.Sprintf("%d is too large for data.order = \"megatron\"", c.Run.Seed), fmt.Sprintf("use at most %d", math.MaxUint32))
	}
}
