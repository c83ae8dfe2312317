package tokenizer

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// caseNamed returns one of the test cases.
func caseNamed(t testing.TB, name string) testCase {
	t.Helper()
	for _, c := range testCases(t) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no case %q", name)
	return testCase{}
}

func mustRead(t testing.TB, content []byte) *huggingFace {
	t.Helper()
	tok, err := read(content)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Every refusal names the place and what is there.
func TestRefused(t *testing.T) {
	level, metaspace := string(caseNamed(t, "llama3").content), string(caseNamed(t, "metaspace always").content)
	for _, c := range []struct{ content, old, new, want string }{
		{level, `{`, `[`, "line 1, byte"},
		{level, `"type":"BPE"`, `"type":"Unigram"`, `model.type: "Unigram" is not implemented`},
		{level, `"dropout":null`, `"dropout":0.1`, "model.dropout: 0.1 is not implemented"},
		{level, `"continuing_subword_prefix":null`, `"continuing_subword_prefix":"##"`, `model.continuing_subword_prefix: "##"`},
		{level, `"end_of_word_suffix":null`, `"end_of_word_suffix":"</w>"`, `model.end_of_word_suffix: "</w>"`},
		{level, `"unk_token":null`, `"unk_token":"<unk>"`, `model.unk_token: "<unk>" is not in the vocabulary`},
		{level, `"vocab":{"!":0`, `"vocab":{"!":-1`, `model.vocab: "!" has id -1`},
		{level, `"vocab":{"!":0`, `"vocab":{"!":4194304`, `model.vocab: "!" has id 4194304, ids go from 0 to 4194303`},
		{level, `"vocab":{`, `"vocab":{"x":[],`, `model.vocab: `},
		{level, `"merges":[`, `"merges":["a b c",`, `model.merges[0]: "a b c" is not two tokens`},
		{level, `"merges":[`, `"merges":["ab",`, `model.merges[0]: "ab" is not two tokens`},
		{level, `"merges":[`, `"merges":[["a"],`, `model.merges[0]: 1 tokens where 2 are merged`},
		{level, `"merges":[`, `"merges":["a zz",`, `model.merges[0]: "zz" is not in the vocabulary`},
		{level, `"merges":[`, `"merges":["q q",`, `model.merges[0]: "qq" is not in the vocabulary`},
		{level, `"merges":[`, `"merges":[7,`, `model.merges[0]: `},
		{level, `"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Nmt"}]}`, `normalizer.normalizers[1]: a normalizer of type "Nmt" is not implemented`},
		{level, `"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"Regex":"(?<=a)b"}}`, `normalizer.pattern.Regex: byte 0 of the expression`},
		{level, `"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"String":""}}`, `normalizer.pattern: wants`},
		{level, `"type":"Split"`, `"type":"UnicodeScripts"`, `pre_tokenizer.pretokenizers[0]: a pre-tokenizer of type "UnicodeScripts"`},
		{level, `"behavior":"Isolated"`, `"behavior":"Merged"`, `pre_tokenizer.pretokenizers[0].behavior: "Merged" is not one of`},
		{level, `{"type":"Sequence","pretokenizers":[`, `{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},`, "ByteLevel before another"},
		{level, `"post_processor":null`, `"post_processor":{"type":"BertProcessing"}`, `post_processor: a post-processor of type "BertProcessing"`},
		{level, `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}]}`, `post_processor.single[0]: "<s>" is not among special_tokens`},
		{level, `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[]}`, `the text is there 0 times`},
		{level, `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B"}}]}`, `post_processor.single[0]: wants`},
		{metaspace, `"decoder":{`, `"decoder":{"type":"WordPiece"},"x":{`, `decoder: a decoder of type "WordPiece" is not implemented`},
		{level, `"added_tokens":[`, `"added_tokens":[{"id":331,"content":"<new>"}`, `added_tokens[0]: "<new>" has id 331 where Hugging Face's tokenizers give it 330`},
		{level, `"added_tokens":[`, `"added_tokens":[{"id":1,"content":"!"}`, `added_tokens[0]: "!" has id 1 where`},
		{metaspace, `"prepend_scheme":"always"`, `"prepend_scheme":"last"`, `decoder.prepend_scheme: "last"`},
		{metaspace, `"replacement":"▁"`, `"replacement":""`, `replacement: it is missing`},
	} {
		content := strings.Replace(c.content, c.old, c.new, 1)
		if content == c.content {
			t.Errorf("%s is not there to be changed", c.old)
		}
		if _, err := read([]byte(content)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.new, err, c.want)
		}
	}
}

func TestOpen(t *testing.T) {
	content := string(caseNamed(t, "added tokens").content)
	config := `{"bos_token": null, "eos_token": {"content": "<mask>", "lstrip": true}}`
	dir := writeFiles(t, map[string]string{"tokenizer.json": content, "tokenizer_config.json": config, "chat_template.jinja": "x", "other": "y"})
	for _, path := range []string{dir, filepath.Join(dir, "tokenizer.json")} {
		tok, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		mask, _ := tok.ID("<mask>")
		if tok.EOD() != mask || mask == 0 || tok.BOS() != -1 {
			t.Errorf("%s: documents end with %d, texts begin with %d, want %d and none", path, tok.EOD(), tok.BOS(), mask)
		}
		files, err := tok.Files()
		if err != nil || len(files) != 3 || string(files["tokenizer.json"]) != content || string(files["chat_template.jinja"]) != "x" {
			t.Errorf("%s: %d files, %v", path, len(files), err)
		}
	}
	tok, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(content+" "), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Files(); err == nil || !strings.Contains(err.Error(), "has changed since it was read") {
		t.Errorf("a changed file: %v", err)
	}
	if other, err := Open(dir); err != nil || other.Fingerprint() == tok.Fingerprint() {
		t.Errorf("a changed file has the same fingerprint, %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	content := string(caseNamed(t, "llama3").content)
	for want, files := range map[string]map[string]string{
		"has a SentencePiece tokenizer.model and no": {"tokenizer.model": "\n"},
		"tokenizer.json: line 2, byte 4":             {"tokenizer.json": "{\n}}"},
		"tokenizer_config.json: line 1, byte 1":      {"tokenizer.json": content, "tokenizer_config.json": "]"},
		`eos_token: "</s>" is not in tokenizer.json`: {"tokenizer.json": content, "tokenizer_config.json": `{"eos_token": "</s>"}`},
	} {
		if _, err := Open(writeFiles(t, files)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	large := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxFileBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(large); err == nil || !strings.Contains(err.Error(), "has more than 128 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

// randomWord returns a word of n characters that merge often.
func randomWord(rng *rand.Rand, n int) string {
	letters := []rune("theokns▁▁i日12 ")
	word := make([]rune, n)
	for i := range word {
		word[i] = letters[rng.IntN(len(letters))]
	}
	return string(word)
}

// Both ways of merging, and merging a word in parts, give the same tokens.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"nfc", "llama2", "unknown, fused", "unknown, left out"} {
		tok := mustRead(t, caseNamed(t, name).content)
		e := newEncoder(tok)
		cuts := 0
		for n := 2; n < 200; n++ {
			word := randomWord(rng, n)
			m := merger{model: tok.model}
			m.symbols = tok.model.appendSymbols(nil, word)
			if len(m.symbols) == 0 {
				continue
			}
			short := m.mergeShort(nil)
			m.symbols = tok.model.appendSymbols(nil, word)
			if long := m.mergeLong(nil); !slices.Equal(long, short) {
				t.Fatalf("%s: %q with a heap: %v, without: %v", name, word, long, short)
			}
			var parts []int32
			for rest := word; rest != ""; cuts++ {
				end := tok.model.part(rest)
				parts = m.merge(parts, rest[:end])
				rest = rest[end:]
			}
			if !slices.Equal(parts, short) {
				t.Fatalf("%s: %q in parts: %v, whole: %v", name, word, parts, short)
			}
			e.dst = e.dst[:0]
			if e.word(word); !slices.Equal(e.dst, short) {
				t.Fatalf("%s: %q encoded: %v, merged %v", name, word, e.dst, short)
			}
		}
		if cuts < 400 {
			t.Errorf("%s: %d parts of 198 words: cuts are not tested", name, cuts)
		}
	}
}

// Many goroutines share a tokenizer; each gets the tokens that one alone gets.
func TestConcurrent(t *testing.T) {
	c := caseNamed(t, "llama2")
	tok := mustRead(t, c.content)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 20 {
				for _, text := range c.Texts {
					if got := tok.Encode(nil, text.Text); !slices.Equal(got, text.IDs) {
						t.Errorf("%q: %v, want %v", text.Text, got, text.IDs)
					}
				}
			}
		})
	}
	wait.Wait()
	if len(tok.encoders) > 8 {
		t.Errorf("%d encoders for 8 goroutines", len(tok.encoders))
	}
}

// FuzzEncode: text comes back from the tokens of a tokenizer that changes nothing, and a Stream gives the same.
func FuzzEncode(f *testing.F) {
	level, sentencepiece := mustRead(f, caseNamed(f, "llama3").content), mustRead(f, caseNamed(f, "metaspace never").content)
	for _, text := range []string{"the tokens  of\n\n日本 e\u0301 123456", "\xE6\x97 x\xFF<s>", "▁a  b", "<0x41>"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		valid := validUTF8(text)
		for _, tok := range []*huggingFace{level, sentencepiece} {
			ids := tok.Encode(nil, text)
			got := tok.Decode(ids, false)
			if tok == level && got != valid {
				t.Fatalf("%q came back as %q from %v", valid, got, ids)
			}
			var out strings.Builder
			s := NewStream(tok, nil, false)
			for _, id := range ids {
				out.WriteString(s.Next(id))
			}
			out.WriteString(s.Rest())
			if tok == level && out.String() != valid && strings.Count(valid, replacement) < maxHeld/4 {
				t.Fatalf("%q came as %q in a stream of %v", valid, out.String(), ids)
			}
		}
	})
}

// FuzzParse: what is accepted encodes and decodes text without a panic, to ids that it has.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"added tokens, lower case", "replace, strip", "digits True"} {
		f.Add(caseNamed(f, name).content)
	}
	f.Add([]byte(`{"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},"added_tokens":[{"id":3,"content":"<x>","lstrip":true}]}`))
	f.Add([]byte(`{"model":{"vocab":{"<0x61>":0,"?":1},"unk_token":"?","byte_fallback":true},"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"}]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		if bytes.Count(content, []byte("Regex")) > 4 || len(content) > 1<<16 {
			return
		}
		tok, err := read(content)
		if err != nil {
			return
		}
		ids := tok.EncodeSpecial(nil, "ab the <x>  cab\n日本\u0301")
		for _, id := range ids[len(tok.before) : len(ids)-len(tok.after)] {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("id %d of %d", id, tok.VocabSize())
			}
		}
		tok.Decode(ids, true)
	})
}
