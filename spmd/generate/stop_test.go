package generate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStopTokens(t *testing.T) {
	for _, c := range []struct {
		generation, config string
		want               []int32
	}{
		{"", "", nil},
		{`{}`, `{"eos_token_id": 3}`, []int32{3}},
		{`{"eos_token_id": null}`, `{"eos_token_id": null}`, nil},
		{`{"eos_token_id": 2}`, `{"eos_token_id": 3}`, []int32{2}},
		{`{"eos_token_id": [128001, 128009]}`, "", []int32{128001, 128009}},
	} {
		if ids, err := StopTokens(modelDir(t, c.generation, c.config)); !slices.Equal(ids, c.want) || err != nil {
			t.Errorf("%s and %s: %v, %v, want %v", c.generation, c.config, ids, err, c.want)
		}
	}
	for _, content := range []string{`{`, `{"eos_token_id": "</s>"}`, `{"eos_token_id": [1.5]}`} {
		if ids, err := StopTokens(modelDir(t, content, "")); err == nil || !strings.Contains(err.Error(), "is an id or a list of ids") {
			t.Errorf("%s: %v, %v", content, ids, err)
		}
	}
}

// modelDir returns a directory with the two files, but for those that are "".
func modelDir(t *testing.T, generation, config string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"generation_config.json": generation, "config.json": config} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
