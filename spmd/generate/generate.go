// Package generate samples text from a model: temperature, top-k and top-p, with numbers that depend on the seed and the position
// alone, so that the same call gives the same text.
package generate

import (
	"errors"
	"fmt"
	"io"
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
	// TopK keeps only the k likeliest tokens, and those that are as likely as the last of them; 0 keeps all.
	TopK int
	// TopP keeps only the likeliest tokens that together have at least this probability (Holtzman et al., "The Curious Case of
	// Neural Text Degeneration", 2020); 0 and 1 keep all.
	TopP float64
	// Seed decides the random numbers: that of each token is a function of the seed and the token's position.
	Seed uint64
	// Vocabulary is the number of ids that the tokenizer can turn into text; a model's further ids are never drawn. 0
	// means all.
	Vocabulary int
	// EOD is the end-of-document token, -1 for none; it also stands before an empty prompt.
	EOD int32
	// Stop are further tokens that end the text.
	Stop []int32
}

// Text writes the continuation of a prompt's tokens to w as it is generated, and returns the first error of either. The model
// must be bound and s be idle.
func Text(w io.Writer, m *model.Model, d kernels.Device, s device.Stream, tok tokenizer.Tokenizer, prompt []int32, o Options) error {
	if len(prompt) == 0 {
		if o.EOD < 0 {
			return errors.New("the prompt is empty, and the tokenizer has no token that ends a document to start after; give a prompt")
		}
		prompt = []int32{o.EOD}
	}
	text := tokenizer.NewStream(tok, prompt, false)
	err := Tokens(m, d, s, prompt, o, func(id int32) error {
		_, err := io.WriteString(w, text.Next(id))
		return err
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text.Rest())
	return err
}

// Tokens hands the tokens that follow prompt, one or more, to each as they are generated; one that ends the text is left out. It
// ends with the first error of each. The model must be bound and s be idle.
func Tokens(m *model.Model, d kernels.Device, s device.Stream, prompt []int32, o Options, each func(id int32) error) (err error) {
	positions := min(len(prompt)+o.Tokens, m.Config.MaxPositionEmbeddings)
	if len(prompt) >= positions {
		return fmt.Errorf("the prompt has %d tokens, the model %d positions; give a shorter prompt", len(prompt), m.Config.MaxPositionEmbeddings)
	}
	dec, err := model.NewDecoder(m, d, s, len(prompt), positions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dec.Close()) }()
	numbers := random.New(o.Seed, "generate", "")
	logits, err := dec.Prompt(prompt)
	for i := len(prompt); err == nil; i++ {
		id := sample(logits, o, numbers.Float64(uint64(i)))
		if id == o.EOD || slices.Contains(o.Stop, id) {
			return nil
		}
		if err := each(id); err != nil || i+1 >= positions {
			return err
		}
		logits, err = dec.Next(id)
	}
	return err
}
