package data

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lockstep/spmd/data/tokenizer"
)

// Extract writes the documents of a .bin/.idx pair as JSON lines, {"text": ...} each, and returns how many they are. The token
// eod at the end of a document is left out, and so are special tokens that the tokenizer puts around every text, so that
// text which was tokenized comes back as it was; -1 stands for no such token.
func Extract(w io.Writer, prefix string, t tokenizer.Tokenizer, eod int32) (n int64, err error) {
	p, err := openPair(prefix)
	if err != nil {
		return 0, pairError(prefix, err)
	}
	defer func() { err = errors.Join(err, p.close()) }()
	out := bufio.NewWriterSize(w, 1<<20)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	around := t.EncodeSpecial(nil, "")
	// Reading guards the mapped tokens; the index is guarded here.
	err = guardMapping(prefix+".idx", func() error {
		at := int64(0)
		for ; n < p.index.documents-1; n++ {
			length := int64(0)
			for sequence := p.border(n); sequence < p.border(n+1); sequence++ {
				length += p.length(sequence)
			}
			if length > maxRecordBytes {
				return fmt.Errorf("%s: document %d has %s, too many for one line", prefix, n, count(length, "token"))
			}
			ids := make([]int32, length)
			if err := p.read(ids, at, int64(t.VocabSize()), false); err != nil {
				return err
			}
			if err := lines.Encode(struct {
				Text string `json:"text"`
			}{t.Decode(strip(ids, around, eod), false)}); err != nil {
				return err
			}
			at += length
		}
		return nil
	})
	return n, errors.Join(err, out.Flush())
}

// strip cuts eod off the end of a document, and what the tokenizer puts around an empty text off both ends.
func strip(ids, around []int32, eod int32) []int32 {
	if n := len(ids); n > 0 && ids[n-1] == eod {
		ids = ids[:n-1]
	}
	for _, id := range around {
		if len(ids) > 0 && ids[0] == id {
			ids = ids[1:]
		} else if n := len(ids); n > 0 && ids[n-1] == id {
			ids = ids[:n-1]
		}
	}
	return ids
}
