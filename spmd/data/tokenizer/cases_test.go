package tokenizer

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// A testCase is a tokenizer with what Hugging Face's tokenizers make of texts; tools/make_tokenizer_cases.py writes them.
type testCase struct {
	Name      string
	Tokenizer map[string]json.RawMessage
	Texts     []struct {
		Text             string
		IDs, Special     []int32 // without and with special tokens; Special nil: as IDs
		Decoded, Skipped *string // with and without special tokens; nil: as Text and Decoded
	}
	content []byte // the tokenizer.json
}

// testCases returns the cases of testdata.
func testCases(t testing.TB) []testCase {
	t.Helper()
	content, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Shared map[string]json.RawMessage
		Cases  []testCase
	}
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	for i := range file.Cases {
		c := &file.Cases[i]
		model := map[string]json.RawMessage{}
		if err := json.Unmarshal(c.Tokenizer["model"], &model); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"vocab", "merges"} {
			model[key] = file.Shared[strings.Trim(string(model[key]), `"`)]
		}
		if c.Tokenizer["model"], err = json.Marshal(model); err != nil {
			t.Fatal(err)
		}
		if c.content, err = json.Marshal(c.Tokenizer); err != nil {
			t.Fatal(err)
		}
	}
	return file.Cases
}

// read makes the tokenizer of a tokenizer.json.
func read(content []byte) (*huggingFace, error) {
	f, err := parseFile(content)
	if err != nil {
		return nil, err
	}
	return newHuggingFace(f)
}

func TestCases(t *testing.T) {
	for _, c := range testCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			tok, err := read(c.content)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time from the cache
				for _, text := range c.Texts {
					if got := tok.Encode(nil, text.Text); !slices.Equal(got, text.IDs) {
						t.Errorf("%q has ids %v, want %v", text.Text, got, text.IDs)
					}
				}
			}
			for _, text := range c.Texts {
				if text.Special == nil {
					text.Special = text.IDs
				}
				if text.Decoded == nil {
					text.Decoded = &text.Text
				}
				if text.Skipped == nil {
					text.Skipped = text.Decoded
				}
				if got := tok.EncodeSpecial([]int32{7}, text.Text); !slices.Equal(got[1:], text.Special) {
					t.Errorf("%q with special tokens has ids %v, want 7 and %v", text.Text, got, text.Special)
				}
				if got := tok.Decode(text.Special, false); got != *text.Decoded {
					t.Errorf("%v decode to %q, want %q", text.Special, got, *text.Decoded)
				}
				if got := tok.Decode(text.Special, true); got != *text.Skipped {
					t.Errorf("%v decode without special tokens to %q, want %q", text.Special, got, *text.Skipped)
				}
			}
		})
	}
}
