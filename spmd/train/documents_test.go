package train_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/kernels/cpu"
	"lockstep/spmd/train"
)

// TestEachMaskMatters makes one step with none of the masks and with each alone. The golden runs have all three, where
// positions hardly show: within a document attention depends on their differences.
func TestEachMaskMatters(t *testing.T) {
	first := func(overrides ...string) (loss, norm float64, tokens int64) {
		text := layoutText("llama", filepath.Join(t.TempDir(), "out"), 8)
		overrides = append([]string{"data.paths=testdata/golden/documents", "data.eod=256", "train.steps=1"}, overrides...)
		s := runRanks(t, text, 1, 1, overrides...).steps[0]
		return s.Loss, s.GradNorm, s.Tokens
	}
	loss, norm, tokens := first()
	for _, key := range documentMasks[1:] {
		l, n, k := first(key)
		if l == loss || n == norm {
			t.Errorf("%s leaves the loss at %v and the gradient's norm at %v", key, l, n)
		}
		if masked := k < tokens; masked != (key == "data.eod_mask_loss=true") {
			t.Errorf("%s: %d label tokens, %d without", key, k, tokens)
		}
	}
}

// TestDescribeDocuments checks that the run says what stops at the ends of documents, and nothing where nothing does.
func TestDescribeDocuments(t *testing.T) {
	dev, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for _, c := range []struct {
		overrides []string
		want      string
	}{
		{nil, ""},
		{documentMasks, "documents  each ends with token 256, where these end too: attention, positions, loss\n"},
		{documentMasks[:2], "documents  each ends with token 256, where these end too: attention\n"},
	} {
		config, _ := loadConfig(t, layoutText("llama", filepath.Join(t.TempDir(), "out"), 8), 1, c.overrides...)
		layout, err := train.NewLayout(dev, config, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		layout.Describe(&b)
		if c.want == "" && strings.Contains(b.String(), "documents") || !strings.Contains(b.String(), c.want) {
			t.Errorf("%q: got\n%s\nwant the line %q", c.overrides, b.String(), c.want)
		}
	}
}

// TestStepWithoutLabels trains on ends of documents alone: the mean over no label is 0, not NaN.
func TestStepWithoutLabels(t *testing.T) {
	dir := t.TempDir()
	texts := filepath.Join(dir, "texts")
	if err := os.Mkdir(texts, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(texts, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := layoutText("llama", filepath.Join(dir, "out"), 8)
	run := runRanks(t, text, 2, 1, append([]string{"data.format=text", "data.paths=" + texts, "data.validation_split=0.5"}, documentMasks...)...)
	for _, s := range run.steps {
		if s.Loss != 0 || s.GradNorm != 0 || s.Tokens != 0 {
			t.Errorf("step %d: loss %v, gradient norm %v, %d tokens; want nothing", s.Step, s.Loss, s.GradNorm, s.Tokens)
		}
	}
	for _, v := range run.validations {
		if v.Loss != 0 {
			t.Errorf("validation loss %v without a label", v.Loss)
		}
	}
}

// TestPackedDocumentsAreApart packs two conversations into one sample, of which only one has something to predict. Whatever the
// other one says, before it or behind it, its loss and gradient keep their bits; where attention crosses, they do not.
func TestPackedDocumentsAreApart(t *testing.T) {
	dir := t.TempDir()
	template := filepath.Join(dir, "template.jinja")
	if err := os.WriteFile(template, []byte("{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}"), 0o644); err != nil {
		t.Fatal(err)
	}
	const answered = `{"messages": [{"role": "user", "content": "two and two"}, {"role": "assistant", "content": "is four"}]}` + "\n"
	first := func(lines string, overrides ...string) string {
		path := filepath.Join(t.TempDir(), "talk.jsonl")
		if err := os.WriteFile(path, []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
		overrides = append([]string{"data.format=chat", "data.paths=" + path, "data.tokenizer=bytes", "data.chat_template=" + template, "data.sequence_length=40",
			"data.validation_split=0", "data.validation_interval=0", "train.steps=1"}, overrides...)
		s := runRanks(t, layoutText("llama", filepath.Join(t.TempDir(), "out"), 1), 1, 1, overrides...).steps[0]
		if s.Tokens != 8 { // those of the answer, with the letter of the role
			t.Errorf("%d tokens are predicted, want 8", s.Tokens)
		}
		return fmt.Sprintf("%x %x", s.Loss, s.GradNorm)
	}
	other := func(content string) string {
		return fmt.Sprintf(`{"messages": [{"role": "user", "content": %q}]}`+"\n", content)
	}
	for what, talk := range map[string]func(string) string{
		"before": func(content string) string { return other(content) + answered },
		"behind": func(content string) string { return answered + other(content) },
	} {
		if a, b := first(talk("seven days")), first(talk("NINE WEEKS")); a != b {
			t.Errorf("a document %s it changes loss and gradient from %s to %s", what, a, b)
		}
	}
	const crossing = "data.reset_attention_mask=false"
	if first(other("seven days")+answered, crossing) == first(other("NINE WEEKS")+answered, crossing) {
		t.Error("without the mask the document before it does not matter either")
	}
}
