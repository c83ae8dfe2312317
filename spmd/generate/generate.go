// Package generate samples text from a model: temperature and top-k, with numbers that depend on the seed and the position
// alone, so that the same call gives the same text.
package generate

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"lockstep/kernels"
	"lockstep/kernels/device"
	"lockstep/spmd/data/tokenizer"
	"lockstep/spmd/model"
	"lockstep/spmd/random"
)

// Options say how to sample. The zero value is greedy and of no length.
type Options struct {
	// Tokens is the most that is generated; an end-of-document token ends it sooner.
	Tokens int
	// Temperature divides the logits; 0 always takes the likeliest token.
	Temperature float64
	// TopK keeps only the k likeliest tokens; 0 keeps all.
	TopK int
	Seed uint64
	// Vocabulary is the number of ids that the tokenizer can turn into text; a model's further ids are never drawn. 0
	// means all.
	Vocabulary int
	// EOD is the end-of-document token, -1 for none; it also stands before an empty prompt.
	EOD int32
	// Stop are further tokens that end the text.
	Stop []int32
}

// Text writes the continuation of prompt to w as it is generated. The model must be bound and s be idle.
func Text(w io.Writer, m *model.Model, d kernels.Device, s device.Stream, tok tokenizer.Tokenizer, prompt string, o Options) (err error) {
	ids := tok.EncodeSpecial(nil, prompt)
	if len(ids) == 0 {
		if o.EOD < 0 {
			return errors.New("the prompt is empty, and the tokenizer has no token that ends a document to start after; give a prompt")
		}
		ids = []int32{o.EOD}
	}
	positions := min(len(ids)+o.Tokens, m.Config.MaxPositionEmbeddings)
	if len(ids) >= positions {
		return fmt.Errorf("the prompt has %d tokens, the model %d positions; give a shorter prompt", len(ids), m.Config.MaxPositionEmbeddings)
	}
	dec, err := model.NewDecoder(m, d, s, len(ids), positions)
	if err != nil {
		return err
	}
	defer func() {
		if e := dec.Close(); err == nil {
			err = e
		}
	}()
	logits, err := dec.Prompt(ids)
	numbers := random.New(o.Seed, "generate", prompt)
	text := tokenizer.NewStream(tok, ids, false)
	defer func() {
		if err == nil {
			_, err = io.WriteString(w, text.Rest())
		}
	}()
	for i := len(ids); err == nil; i++ {
		id := sample(logits, o, numbers.Float64(uint64(i)))
		if id == o.EOD || slices.Contains(o.Stop, id) {
			return nil
		}
		if _, err := io.WriteString(w, text.Next(id)); err != nil {
			return err
		}
		if i+1 >= positions {
			return nil
		}
		logits, err = dec.Next(id)
	}
	return err
}

// sample draws a token with the uniform number u from [0, 1).
func sample(logits []float32, o Options, u float64) int32 {
	if o.Vocabulary > 0 && o.Vocabulary < len(logits) {
		logits = logits[:o.Vocabulary]
	}
	order := make([]int32, len(logits))
	for i := range order {
		order[i] = int32(i)
	}
	// Ties go to the smaller id, so that the order is one and the same everywhere.
	slices.SortFunc(order, func(a, b int32) int {
		switch {
		case logits[a] > logits[b], logits[a] == logits[b] && a < b:
			return -1
		}
		return 1
	})
	if o.Temperature <= 0 {
		return order[0]
	}
	if o.TopK > 0 && o.TopK < len(order) {
		order = order[:o.TopK]
	}
	weights, total := make([]float64, len(order)), 0.0
	for i, id := range order {
		weights[i] = math.Exp(float64(logits[id]-logits[order[0]]) / o.Temperature)
		total += weights[i]
	}
	at := u * total
	for i, weight := range weights {
		if at -= weight; at < 0 {
			return order[i]
		}
	}
	return order[len(order)-1]
}
