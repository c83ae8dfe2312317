package data

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// pieceBytes is about how much of the input one piece has: enough to make its administration cheap, little enough for
	// one on each core to fit in memory.
	pieceBytes = 4 << 20
	// maxRecordBytes is the most that one document may have.
	maxRecordBytes = 1 << 30
	// maxArrayBytes is the most that a file with one JSON array may have, which is read as one piece.
	maxArrayBytes = 2 << 30
)

// A piece is a part of the input that is tokenized as a whole: bytes [first,last) of a file of JSON lines, rows [first,last)
// of a Parquet file, or files [first,last) of text. The pieces of an input depend on it alone, so that work that was cut
// off goes on with the same ones.
type piece struct {
	file        int
	first, last int64
	bytes       int64 // about how much there is to do
}

// An input is a list of files with documents in them.
type input interface {
	// pieces cuts the input up. It refuses files that are not what the format says.
	pieces() ([]piece, error)
	// read hands over the records of a piece in order: the text of a document, or the JSON object that describes it.
	// The bytes are good only until the next one. Errors name the file and the record.
	read(p piece, record func([]byte) error) error
}

// textInput has a document per file.
type textInput []string

func (in textInput) pieces() ([]piece, error) {
	var all []piece
	for i, path := range in {
		size, err := readableSize(path)
		if err != nil {
			return nil, err
		}
		if size > maxRecordBytes {
			return nil, fmt.Errorf("%s has %s, a document at most %s; split it", path, megabytes(size), megabytes(maxRecordBytes))
		}
		if last := len(all) - 1; last >= 0 && all[last].bytes+size <= pieceBytes {
			all[last].last++
			all[last].bytes += size
		} else {
			all = append(all, piece{first: int64(i), last: int64(i) + 1, bytes: size})
		}
	}
	return all, nil
}

func (in textInput) read(p piece, record func([]byte) error) error {
	for _, path := range in[p.first:p.last] {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return fmt.Errorf("%s is not UTF-8 text; convert it, or use the tokenizer \"bytes\"", path)
		}
		if err := record(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// jsonInput has JSON objects, one per line, or all in one array.
type jsonInput []string

func (in jsonInput) pieces() ([]piece, error) {
	var all []piece
	for i, path := range in {
		size, err := readableSize(path)
		if err != nil {
			return nil, err
		}
		array, err := isArray(path)
		if err != nil {
			return nil, err
		}
		if array {
			if size > maxArrayBytes {
				return nil, fmt.Errorf("%s is a JSON array of %s, more than %s; write an object per line", path, megabytes(size), megabytes(maxArrayBytes))
			}
			all = append(all, piece{file: i, first: 0, last: -1, bytes: size})
			continue
		}
		for at := int64(0); at < size; at += pieceBytes {
			end := min(at+pieceBytes, size)
			all = append(all, piece{file: i, first: at, last: end, bytes: end - at})
		}
	}
	return all, nil
}

// isArray tells whether a file begins with a JSON array. Files that are neither that nor objects are refused.
func isArray(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return false, fmt.Errorf("%s is compressed; decompress it", path)
	case bytes.HasPrefix(head, []byte("PAR1")):
		return false, fmt.Errorf("%s is a Parquet file, not JSON", path)
	}
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte(byteOrderMark)), " \t\r\n")
	switch {
	case len(head) == 0, head[0] == '{':
		return false, nil
	case head[0] == '[':
		return true, nil
	}
	return false, fmt.Errorf("%s begins with %q; JSON lines begin with {, one object per line, an array of objects with [", path, head[:1])
}

// byteOrderMark begins some files of UTF-8, and means nothing there.
const byteOrderMark = "\xef\xbb\xbf"

func (in jsonInput) read(p piece, record func([]byte) error) error {
	file, err := os.Open(in[p.file])
	if err != nil {
		return err
	}
	defer file.Close()
	if p.last < 0 {
		err = readArray(bufio.NewReaderSize(file, 1<<20), record)
	} else {
		err = readLines(file, p.first, p.last, record)
	}
	var at *lineError
	if errors.As(err, &at) {
		line, countErr := lineNumber(in[p.file], at.offset)
		return errors.Join(fmt.Errorf("%s:%d: %w", in[p.file], line, at.err), countErr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", in[p.file], err)
	}
	return nil
}

// A lineError is an error in the line that begins at an offset.
type lineError struct {
	offset int64
	err    error
}

func (e *lineError) Error() string { return fmt.Sprintf("byte %d: %v", e.offset, e.err) }

// lineNumber returns the number, from 1, of the line that begins at an offset.
func lineNumber(path string, offset int64) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines, buffer := int64(1), make([]byte, 1<<20)
	for r := io.LimitReader(file, offset); ; {
		n, err := r.Read(buffer)
		lines += int64(bytes.Count(buffer[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// readLines reads the lines that begin in bytes [first,last) of a file. Empty ones are passed over.
func readLines(file io.ReadSeeker, first, last int64, record func([]byte) error) error {
	at := max(first-1, 0)
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(file, 1<<18)
	if first > 0 {
		// The line that byte first-1 is in belongs to the piece before, unless that byte ends it.
		n, err := skipLine(r)
		if at += n; errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	var line []byte
	for at < last {
		var err error
		begin := at
		line, err = readLine(r, line[:0])
		if err != nil && !errors.Is(err, io.EOF) {
			return &lineError{begin, err}
		}
		at += int64(len(line))
		text := line
		if begin == 0 {
			text = bytes.TrimPrefix(text, []byte(byteOrderMark))
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if err := record(text); err != nil {
				return &lineError{begin, err}
			}
		}
		if err != nil { // the end
			return nil
		}
	}
	return nil
}

// readLine appends a line with its line break to dst; io.EOF with the last one that has none.
func readLine(r *bufio.Reader, dst []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		dst = append(dst, part...)
		if len(dst) > maxRecordBytes {
			return dst, fmt.Errorf("the line has more than %s; is the file one object per line?", megabytes(maxRecordBytes))
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return dst, err
		}
	}
}

// skipLine passes over the rest of a line and returns its bytes.
func skipLine(r *bufio.Reader) (int64, error) {
	n := int64(0)
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

// readArray reads the elements of one JSON array.
func readArray(r *bufio.Reader, record func([]byte) error) error {
	if head, err := r.Peek(len(byteOrderMark)); err == nil && string(head) == byteOrderMark {
		if _, err := r.Discard(len(head)); err != nil {
			return err
		}
	}
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil {
		return err
	}
	for i := 0; d.More(); i++ {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return fmt.Errorf("byte %d: element %d: %w", d.InputOffset(), i, err)
		}
		if err := record(element); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("byte %d: the array does not end: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("byte %d: the file goes on after its array", d.InputOffset())
	}
	return nil
}

// jsonText returns the string at a key of a JSON object.
func jsonText(object []byte, key string) (string, error) {
	if !utf8.Valid(object) {
		return "", errors.New("the record is not UTF-8; convert the file")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return "", fmt.Errorf("no JSON object: %w", err)
	}
	raw, ok := fields[key]
	if !ok {
		return "", fmt.Errorf("the object has no key %q, its keys are %s; set the text key", key, quotedKeys(fields))
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", fmt.Errorf("%q is not a string", key)
	}
	return *text, nil
}

// quotedKeys lists the keys of an object for a message.
func quotedKeys(fields map[string]json.RawMessage) string {
	const most = 12
	var names []string
	for name := range fields {
		names = append(names, fmt.Sprintf("%q", name))
	}
	slices.Sort(names)
	if len(names) > most {
		names = append(names[:most], "...")
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
