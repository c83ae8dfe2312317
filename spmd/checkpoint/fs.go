package checkpoint

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A fileSystem has the operations by which this package changes the disk, so that tests can stop it between any two of
// them. Reading goes to the operating system directly.
type fileSystem interface {
	mkdir(path string) error
	// create makes a new file for writing.
	create(path string) (file, error)
	// rename replaces a file or an empty directory at to.
	rename(from, to string) error
	// exchange swaps two directories in one step. It fails with errors.ErrUnsupported where the file system cannot.
	exchange(a, b string) error
	// remove removes a file or an empty directory.
	remove(path string) error
	// syncDir puts the names in a directory on the disk.
	syncDir(path string) error
}

// A file is a file being written.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

// disk is the operating system's fileSystem.
type disk struct{}

func (disk) mkdir(path string) error      { return os.Mkdir(path, 0o755) }
func (disk) rename(from, to string) error { return os.Rename(from, to) }
func (disk) remove(path string) error     { return os.Remove(path) }

func (disk) create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (disk) exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return errors.ErrUnsupported
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}

func (disk) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

const (
	// partialSuffix marks what is being written or removed: never read, removed by the next writer.
	partialSuffix = ".partial"
	// previousSuffix marks a directory that is being replaced where exchange is not supported.
	previousSuffix = ".previous"
)

// writeFile makes a new file with what fill writes, and puts it on the disk. The name is on the disk once its directory
// has been synced as well.
func writeFile(fsys fileSystem, path string, fill func(w io.Writer) error) error {
	f, err := fsys.create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, bufferBytes)
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

const (
	// bufferBytes collects small writes. Larger ones go to the file directly.
	bufferBytes = 64 << 10
	// chunkBytes is how much of a large file is written, read or hashed at a time.
	chunkBytes = 1 << 20
)

// content returns a fill for writeFile that writes b.
func content(b []byte) func(w io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// replaceDir makes the complete and synced directory from appear as to, both in the same parent, in place of what was
// there, which is then at leftover ("" for nothing) and may be removed. After a crash, to is the old directory or the new
// one, or recoverDir makes it so.
func replaceDir(fsys fileSystem, from, to string) (leftover string, err error) {
	parent := filepath.Dir(to)
	if !exists(to) {
		if err := fsys.rename(from, to); err != nil {
			return "", err
		}
		return "", fsys.syncDir(parent)
	}
	leftover = from
	err = fsys.exchange(from, to)
	if errors.Is(err, errors.ErrUnsupported) {
		leftover = to + previousSuffix
		if err = fsys.rename(to, leftover); err == nil {
			err = fsys.rename(from, to)
		}
	}
	if err != nil {
		return "", err
	}
	return leftover, fsys.syncDir(parent)
}

// recoverDir undoes or finishes a replaceDir to path that was interrupted.
func recoverDir(fsys fileSystem, path string) error {
	if previous := path + previousSuffix; exists(previous) && !exists(path) {
		if err := fsys.rename(previous, path); err != nil {
			return err
		}
	}
	return errors.Join(removeTree(fsys, path+previousSuffix), removeTree(fsys, path+partialSuffix))
}

// removeTree removes a file or a directory with everything in it, if it is there: the marker that vouches for the rest
// first.
func removeTree(fsys fileSystem, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fsys.remove(path)
	}
	if err := removeTree(fsys, filepath.Join(path, markerName)); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removeTree(fsys, filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return fsys.remove(path)
}

// exists reports whether there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
