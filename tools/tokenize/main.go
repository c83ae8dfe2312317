// Command tokenize runs a tokenizer on many texts, for comparison with another implementation.
//
//	tokenize [--special] TOKENIZER INPUT IDS TEXTS
//
// TOKENIZER is a tokenizer.json or its directory. INPUT holds the texts, each after its length in bytes. IDS gets the ids of
// each text, int32, after their number; TEXTS what they decode to, each after its length. Numbers are little-endian uint32.
// It prints how many seconds each took, with one thread, as JSON.
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"lockstep/spmd/data/tokenizer"
)

func main() {
	special := flag.Bool("special", false, "add the special tokens of the post-processor")
	flag.Parse()
	if err := run(flag.Args(), *special); err != nil {
		fmt.Fprintln(os.Stderr, "tokenize:", err)
		os.Exit(1)
	}
}

func run(args []string, special bool) error {
	if len(args) != 4 {
		return fmt.Errorf("wants TOKENIZER INPUT IDS TEXTS, not %d arguments", len(args))
	}
	begin := time.Now()
	t, err := tokenizer.Open(args[0])
	if err != nil {
		return err
	}
	loaded := time.Since(begin)
	texts, err := readTexts(args[1])
	if err != nil {
		return err
	}
	encode := t.Encode
	if special {
		encode = t.EncodeSpecial
	}
	ids := make([][]int32, len(texts))
	begin = time.Now()
	for i, text := range texts {
		ids[i] = encode(nil, text)
	}
	encoded := time.Since(begin)
	decoded := make([]string, len(texts))
	begin = time.Now()
	for i := range ids {
		decoded[i] = t.Decode(ids[i], false)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"load": loaded.Seconds(), "encode": encoded.Seconds(), "decode": time.Since(begin).Seconds(),
	}); err != nil {
		return err
	}
	return write(args[2], args[3], ids, decoded)
}

// readTexts reads texts that each stand after their length.
func readTexts(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var texts []string
	for len(content) > 0 {
		if len(content) < 4 || uint64(len(content)-4) < uint64(binary.LittleEndian.Uint32(content)) {
			return nil, fmt.Errorf("%s: text %d is cut off", path, len(texts))
		}
		n := binary.LittleEndian.Uint32(content)
		texts = append(texts, string(content[4:4+n]))
		content = content[4+n:]
	}
	return texts, nil
}

func write(idsPath, textsPath string, ids [][]int32, texts []string) error {
	var a, b []byte
	for i := range ids {
		a = binary.LittleEndian.AppendUint32(a, uint32(len(ids[i])))
		for _, id := range ids[i] {
			a = binary.LittleEndian.AppendUint32(a, uint32(id))
		}
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(texts[i]))), texts[i]...)
	}
	if err := os.WriteFile(idsPath, a, 0o644); err != nil {
		return err
	}
	return os.WriteFile(textsPath, b, 0o644)
}
