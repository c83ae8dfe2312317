package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoder changes the texts of tokens on their way to the text of all. Several follow one another.
type decoder func(tokens []string) []string

// newDecoders returns the decoders of c, in order. place is where c stands in the file.
func newDecoders(c *component, place string) ([]decoder, error) {
	if c == nil {
		// Without a decoder there is a space between the tokens.
		return []decoder{func(tokens []string) []string { return []string{strings.Join(tokens, " ")} }}, nil
	}
	switch c.Type {
	case "Sequence":
		return sequence(c.Decoders, place+".decoders", newDecoders)
	case "ByteLevel":
		return []decoder{newByteLevelDecoder()}, nil
	case "ByteFallback":
		return []decoder{joinBytes}, nil
	case "Fuse":
		return []decoder{func(tokens []string) []string { return []string{strings.Join(tokens, "")} }}, nil
	case "Replace":
		replace, err := newReplacer(c, place)
		return []decoder{eachToken(func(_ int, token string) string { return replace(token) })}, err
	case "Strip":
		if utf8.RuneCountInString(c.Content) != 1 || c.Start < 0 || c.Stop < 0 {
			return nil, fmt.Errorf("%s: Strip wants one character as content, and start and stop from 0 on", place)
		}
		return []decoder{eachToken(c.stripToken)}, nil
	case "Metaspace":
		m, err := newMetaspace(c, place)
		return []decoder{eachToken(m.decode)}, err
	}
	return nil, fmt.Errorf("%s: a decoder of type %q is not implemented", place, c.Type)
}

// eachToken returns the decoder that changes token after token.
func eachToken(change func(i int, token string) string) decoder {
	return func(tokens []string) []string {
		for i, token := range tokens {
			tokens[i] = change(i, token)
		}
		return tokens
	}
}

// stripToken removes up to Start and Stop times Content from the ends.
func (c *component) stripToken(_ int, token string) string {
	for range c.Start {
		rest, found := strings.CutPrefix(token, c.Content)
		if !found {
			break
		}
		token = rest
	}
	for range c.Stop {
		rest, found := strings.CutSuffix(token, c.Content)
		if !found {
			break
		}
		token = rest
	}
	return token
}

// newByteLevelDecoder returns the decoder that turns the characters of the byte alphabet into bytes. A token with others
// stays as it is.
func newByteLevelDecoder() decoder {
	bytes := alphabetBytes()
	return func(tokens []string) []string {
		var text strings.Builder
		for _, token := range tokens {
			decoded, ok := bytes.decode(token)
			if !ok {
				decoded = token
			}
			text.WriteString(decoded)
		}
		return []string{validUTF8(text.String())}
	}
}

// byteToken returns the byte that a token such as <0x0A> stands for.
func byteToken(token string) (byte, bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(b), err == nil
}

// joinBytes turns runs of byte tokens into text, where they are UTF-8, else each into U+FFFD.
func joinBytes(tokens []string) []string {
	var out []string
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, token := range tokens {
		if b, ok := byteToken(token); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, token)
	}
	flush()
	return out
}
