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
	"os"
	"path/filepath"
)

const (
	manifestName = "manifest.json"
	markerName   = "COMPLETE"
	// formatVersion is raised when a program that knows only this version could misread a checkpoint.
	formatVersion = 1
	// maxManifestBytes bounds what is read before its checksum is known to be right.
	maxManifestBytes = 64 << 20
)

// manifest is the contents of manifest.json.
type manifest struct {
	Version int         `json:"version"`
	Step    int         `json:"step"`
	Record  Record      `json:"record"`
	Files   []fileEntry `json:"files"`
}

// fileEntry vouches for one state file.
type fileEntry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// encode returns the manifest as text.
func (m *manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", manifestName, err)
	}
	return append(b, '\n'), nil
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
	if m.Version != formatVersion {
		return nil, fmt.Errorf("%s: the format's version is %d, this program reads version %d; use the program that wrote it", manifestName, m.Version, formatVersion)
	}
	if m.Step < 0 {
		return nil, fmt.Errorf("%s: step %d is negative", manifestName, m.Step)
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		// A plain name: it must not lead out of the directory.
		if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) || seen[f.Name] || f.Size < 0 {
			return nil, fmt.Errorf("%s: the entry of file %q (%d bytes) is impossible", manifestName, f.Name, f.Size)
		}
		seen[f.Name] = true
	}
	return m, nil
}

// inspect reads a checkpoint's manifest and makes sure that the marker vouches for it and that the files have the sizes it
// gives. The contents of the files are not read.
func inspect(root *os.Root) (*manifest, error) {
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
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		info, err := root.Stat(f.Name)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return nil, fmt.Errorf("%s has %d bytes, expected a file of %d", f.Name, info.Size(), f.Size)
		}
	}
	return m, nil
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
