package checkpoint

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var errFault = errors.New("planted fault")

// fault says what happens at the operation that fails.
type fault int

const (
	failOnce   fault = iota // the operation fails, as on a full disk, and later ones work
	powerLoss               // nothing happens any more, and what was not synced is lost: half of a file's contents, and names
	lateNames               // the same, but only the contents are lost
	rankKilled              // the rank whose operation it is does nothing any more, and the job fails
)

func (f fault) String() string {
	return [...]string{"an operation fails", "power is lost", "power is lost, names are kept", "a rank is killed"}[f]
}

// faultyFS is the disk, without the time that syncing takes, with a fault at operation number at (from 1, 0 for none). It
// remembers what was not synced by then.
type faultyFS struct {
	disk
	t          *testing.T
	mode       fault
	at, count  int
	noExchange bool
	trash      string          // removed things stay here, so that a removal can be lost; made when needed
	contents   map[string]bool // files with contents that are not synced
	names      []nameChange    // in directories that are not synced
	room       *room           // where several ranks have the same disk
	killed     int             // the rank that was killed, from 1
}

// nameChange is a change of a directory: to appeared (from is empty), from disappeared into to, or both changed places.
type nameChange struct {
	from, to string
	exchange bool
}

func newFaultyFS(t *testing.T, mode fault, at int) *faultyFS {
	return &faultyFS{t: t, mode: mode, at: at, contents: map[string]bool{}}
}

func (f *faultyFS) tripped() bool { return f.at > 0 && f.count >= f.at }

// step counts an operation and says whether it fails.
func (f *faultyFS) step() error {
	f.count++
	if f.mode == rankKilled {
		return f.kill()
	}
	if f.count == f.at || f.tripped() && f.mode != failOnce {
		return errFault
	}
	return nil
}

// kill makes the operations of a killed rank fail.
func (f *faultyFS) kill() error {
	f.room.mu.Lock()
	defer f.room.mu.Unlock()
	if f.count == f.at {
		f.killed, f.room.broken = f.room.turn+1, errFault
	}
	if f.killed == f.room.turn+1 {
		return errFault
	}
	return nil
}

func (f *faultyFS) mkdir(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	f.names = append(f.names, nameChange{to: path})
	return f.disk.mkdir(path)
}

func (f *faultyFS) create(path string) (file, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	f.names = append(f.names, nameChange{to: path})
	f.contents[path] = true
	real, err := f.disk.create(path)
	return &faultyFile{fs: f, path: path, file: real}, err
}

func (f *faultyFS) rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	if exists(to) {
		f.toTrash(to)
	}
	f.moved(from, to)
	f.names = append(f.names, nameChange{from: from, to: to})
	return f.disk.rename(from, to)
}

func (f *faultyFS) exchange(a, b string) error {
	if f.noExchange {
		return errors.ErrUnsupported
	}
	if err := f.step(); err != nil {
		return err
	}
	f.moved(a, b+"~")
	f.moved(b, a)
	f.moved(b+"~", b)
	f.names = append(f.names, nameChange{from: a, to: b, exchange: true})
	return f.disk.exchange(a, b)
}

func (f *faultyFS) remove(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
		return errors.New("directory not empty")
	}
	f.toTrash(path)
	return nil
}

func (f *faultyFS) syncDir(path string) error {
	if err := f.step(); err != nil {
		return err
	}
	f.names = slices.DeleteFunc(f.names, func(c nameChange) bool {
		return filepath.Dir(c.to) == path || filepath.Dir(c.from) == path
	})
	return nil
}

func (f *faultyFS) toTrash(path string) {
	if f.trash == "" {
		f.trash = f.t.TempDir()
	}
	to := filepath.Join(f.trash, strconv.Itoa(f.count))
	f.moved(path, to)
	f.names = append(f.names, nameChange{from: path, to: to})
	if err := os.Rename(path, to); err != nil {
		f.t.Fatal(err)
	}
}

// moved renames what is remembered.
func (f *faultyFS) moved(from, to string) {
	move := func(path string) string {
		if rest, ok := strings.CutPrefix(path, from); ok && (rest == "" || rest[0] == '/') {
			return to + rest
		}
		return path
	}
	for path := range f.contents {
		if p := move(path); p != path {
			delete(f.contents, path)
			f.contents[p] = true
		}
	}
	for i, c := range f.names {
		if c.from == "" { // what was created moves along; a renaming is undone where it happened
			f.names[i].to = move(c.to)
		}
	}
}

// crash makes the disk look as it does after the fault.
func (f *faultyFS) crash() {
	if f.mode == failOnce || f.mode == rankKilled {
		return
	}
	for path := range f.contents {
		if info, err := os.Stat(path); err == nil {
			f.must(os.Truncate(path, info.Size()/2))
		}
	}
	if f.mode == lateNames {
		return
	}
	for _, c := range slices.Backward(f.names) {
		switch {
		case c.exchange:
			f.must(f.disk.exchange(c.from, c.to))
			f.moved(c.from, c.to+"~")
			f.moved(c.to, c.from)
			f.moved(c.to+"~", c.to)
		case c.from == "":
			f.must(os.RemoveAll(c.to))
		default:
			f.must(os.Rename(c.to, c.from))
			f.moved(c.to, c.from)
		}
	}
}

func (f *faultyFS) must(err error) {
	if err != nil {
		f.t.Fatal(err)
	}
}

// faultyFile is a file on a faultyFS. A write that fails has written half.
type faultyFile struct {
	fs   *faultyFS
	path string
	file
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.step(); err != nil {
		if f.fs.count > f.fs.at {
			return 0, err
		}
		n, _ := f.file.Write(p[:len(p)/2])
		return n, err
	}
	n, err := f.file.Write(p)
	if n < len(p) && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

func (f *faultyFile) Sync() error {
	if err := f.fs.step(); err != nil {
		return err
	}
	delete(f.fs.contents, f.path)
	return nil
}
