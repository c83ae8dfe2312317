package tokenizer

import "strings"

// byteAlphabet returns the character that stands for each byte in a byte-level vocabulary: itself for a printable
// character of Latin-1 other than the soft hyphen, the characters from U+0100 on for the rest, in order.
func byteAlphabet() [256]rune {
	var alphabet [256]rune
	next := rune(0x100)
	for b := range alphabet {
		if b >= '!' && b <= '~' || b >= 0xA1 && b != 0xAD {
			alphabet[b] = rune(b)
		} else {
			alphabet[b] = next
			next++
		}
	}
	return alphabet
}

// A reverseAlphabet gives the byte of each character of the byte alphabet, -1 for others.
type reverseAlphabet [0x144]int16

func alphabetBytes() *reverseAlphabet {
	reverse := new(reverseAlphabet)
	for i := range reverse {
		reverse[i] = -1
	}
	for b, char := range byteAlphabet() {
		reverse[char] = int16(b)
	}
	return reverse
}

// decode returns the bytes that text stands for; false if it has other characters.
func (a *reverseAlphabet) decode(text string) (string, bool) {
	var bytes strings.Builder
	for _, r := range text {
		if int(r) >= len(a) || a[r] < 0 {
			return "", false
		}
		bytes.WriteByte(byte(a[r]))
	}
	return bytes.String(), true
}
