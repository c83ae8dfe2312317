package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"lockstep/spmd/checkpoint/safetensors"
	"lockstep/spmd/shard"
)

const (
	manifestName = "manifest.json"
	markerName   = "COMPLETE"
	// formatVersion is raised when a program that knows only this version could misread a checkpoint. Version 1, which one rank
	// wrote, is read as well.
	formatVersion = 2
	// maxManifestBytes bounds what is read before its checksum is known to be right. A terabyte takes some 60 MB.
	maxManifestBytes = 1 << 30
)

// manifest is the contents of manifest.json.
type manifest struct {
	Version int           `json:"version"`
	Step    int           `json:"step"`
	Record  Record        `json:"record"`
	Files   []fileEntry   `json:"files"`
	Tensors []tensorEntry `json:"tensors"`
}

// fileEntry vouches for one state file: Sums has the SHA-256 of each chunk of Chunk bytes, one after the other.
type fileEntry struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Chunk int64  `json:"chunk"`
	Sums  []byte `json:"sums"`
	// SHA256 is that of the whole file, in version 1.
	SHA256 string `json:"sha256,omitempty"`
}

// tensorEntry says where a tensor is.
type tensorEntry struct {
	Name   string            `json:"name"`
	DType  safetensors.DType `json:"dtype"`
	Shape  []int             `json:"shape"`
	Pieces []pieceEntry      `json:"pieces"`
}

// pieceEntry is a slice of a tensor whose elements begin at byte At of a file. From and Shape are the slice's box, left out where
// that is the whole tensor, and Elements its range of the box's elements, left out where that is all of them.
type pieceEntry struct {
	File     int   `json:"file"`
	At       int64 `json:"at"`
	From     []int `json:"from,omitempty"`
	Shape    []int `json:"shape,omitempty"`
	Elements []int `json:"elements,omitempty"`
}

// newPieceEntry describes a slice.
func newPieceEntry(s shard.Slice, at int64) pieceEntry {
	p := pieceEntry{At: at}
	box := shard.Slice{Whole: s.Whole, From: s.From, Shape: s.Shape, End: elements(s.Shape)}
	if !box.IsWhole() {
		p.From, p.Shape = s.From, s.Shape
	}
	if !s.IsBox() {
		p.Elements = []int{s.Begin, s.End}
	}
	return p
}

// slice is the inverse of newPieceEntry.
func (p pieceEntry) slice(whole []int) (shard.Slice, error) {
	s := shard.Slice{Whole: whole, From: p.From, Shape: p.Shape}
	if p.Shape == nil {
		s.From, s.Shape = make([]int, len(whole)), whole
	}
	if len(p.Elements) == 2 {
		s.Begin, s.End = p.Elements[0], p.Elements[1]
	} else if p.Elements != nil {
		return s, fmt.Errorf("elements %v are no range", p.Elements)
	} else {
		s.End = elements(s.Shape)
	}
	return s, s.Check()
}

// encode returns the manifest as text, with a line for each entry, file and tensor.
func (m *manifest) encode() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n  \"version\": %d,\n  \"step\": %d,\n", formatVersion, m.Step)
	err := errors.Join(encodeList(&b, "record", m.Record, ","), encodeList(&b, "files", m.Files, ","), encodeList(&b, "tensors", m.Tensors, ""))
	b.WriteString("}\n")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", manifestName, err)
	}
	if b.Len() > maxManifestBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than the limit of %d", manifestName, b.Len(), maxManifestBytes)
	}
	return b.Bytes(), nil
}

// encodeList writes a list as the value of a key, an element a line.
func encodeList[T any](b *bytes.Buffer, key string, list []T, end string) error {
	fmt.Fprintf(b, "  %q: [", key)
	for i, v := range list {
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "\n    %s", line)
	}
	fmt.Fprintf(b, "\n  ]%s\n", end)
	return nil
}

// marker returns the contents of COMPLETE for a manifest. `sha256sum -c COMPLETE` understands it.
func marker(manifest []byte) []byte {
	sum := sha256.Sum256(manifest)
	return []byte(hex.EncodeToString(sum[:]) + "  " + manifestName + "\n")
}

// parseManifest decodes and checks a manifest whose checksum is right.
func parseManifest(text []byte) (*manifest, error) {
	m := &manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.Version < 1 || m.Version > formatVersion {
		return nil, fmt.Errorf("%s: the format's version is %d, this program reads versions 1 to %d; use the program that wrote it", manifestName, m.Version, formatVersion)
	}
	if m.Step < 0 {
		return nil, fmt.Errorf("%s: step %d is negative", manifestName, m.Step)
	}
	seen := map[string]bool{}
	for i := range m.Files {
		f := &m.Files[i]
		if m.Version == 1 { // one checksum for all of the file
			f.Sums, _ = hex.DecodeString(f.SHA256)
			f.Chunk, f.SHA256 = max(1, f.Size), ""
		}
		if err := f.check(); err != nil || seen[f.Name] {
			return nil, fmt.Errorf("%s: the entry of file %q (%d bytes) is impossible", manifestName, f.Name, f.Size)
		}
		seen[f.Name] = true
	}
	clear(seen)
	for _, t := range m.Tensors {
		if err := t.check(m.Files); err != nil {
			return nil, fmt.Errorf("%s: tensor %q: %w", manifestName, t.Name, err)
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("%s: tensor %q occurs twice", manifestName, t.Name)
		}
		seen[t.Name] = true
	}
	return m, nil
}

// check refuses what cannot be.
func (f *fileEntry) check() error {
	// A plain name: it must not lead out of the directory.
	if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) || f.Size < 0 || f.Chunk < 1 || f.Chunk > math.MaxInt64-f.Size {
		return errors.New("impossible")
	}
	chunks := max(1, (f.Size+f.Chunk-1)/f.Chunk) // an empty file has a checksum, too
	if int64(len(f.Sums)) != chunks*sha256.Size {
		return errors.New("the checksums are not those of all chunks")
	}
	return nil
}

// check refuses a tensor that its pieces cannot make up.
func (t *tensorEntry) check(files []fileEntry) error {
	size := t.DType.Bits() / 8
	if size == 0 {
		return fmt.Errorf("dtype %q is not kept", t.DType)
	}
	if err := shard.All(t.Shape...).Check(); err != nil {
		return err
	}
	want, have := elements(t.Shape), 0
	for _, p := range t.Pieces {
		s, err := p.slice(t.Shape)
		if err != nil {
			return err
		}
		if p.File < 0 || p.File >= len(files) || p.At < 0 || p.At > files[p.File].Size || int64(s.Len()*size) > files[p.File].Size-p.At {
			return fmt.Errorf("%v is not inside file %d", s, p.File)
		}
		if have += s.Len(); have > want {
			break
		}
	}
	if have != want {
		return fmt.Errorf("its pieces do not make up shape %v: %d elements of %d", t.Shape, have, want)
	}
	return nil
}

// readManifest reads a checkpoint's manifest and makes sure that the marker vouches for it.
func readManifest(root *os.Root) ([]byte, error) {
	text, err := readLimited(root, manifestName, maxManifestBytes)
	if err != nil {
		return nil, err
	}
	mark, err := readLimited(root, markerName, 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the marker %s is missing: it was never finished, or is being removed", markerName)
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(mark, marker(text)) {
		return nil, fmt.Errorf("%s and its checksum in %s do not agree: one of them is damaged", manifestName, markerName)
	}
	return text, nil
}

// inspect reads a checkpoint's manifest and makes sure that the files have the sizes it gives. It lists those that are not there.
// The contents of the files are not read.
func inspect(root *os.Root) (m *manifest, missing []int, err error) {
	text, err := readManifest(root)
	if err != nil {
		return nil, nil, err
	}
	if m, err = parseManifest(text); err != nil {
		return nil, nil, err
	}
	for i, f := range m.Files {
		info, err := root.Stat(f.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, i)
		case err != nil:
			return nil, nil, err
		case !info.Mode().IsRegular() || info.Size() != f.Size:
			return nil, nil, fmt.Errorf("%s has %d bytes, expected a file of %d", f.Name, info.Size(), f.Size)
		}
	}
	return m, missing, nil
}

// readLimited reads a small file.
func readLimited(root *os.Root, name string, limit int) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > int64(limit) {
		return nil, fmt.Errorf("%s has %d bytes, expected a file of at most %d", name, info.Size(), limit)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}
