package data

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// findFiles returns the regular files that paths name and exclude does not, each once, sorted by absolute path.
//
// A path is a file; a directory, for all regular files below it but hidden ones (names that begin with a dot); or a glob
// with *, ?, [a-z], {a,b} and ** for any number of directories, which matches files, hidden ones only where the pattern
// spells out the dot. A path that exists is taken as it is, whatever characters it has. Links to files are followed, as
// are links named by a path or before the first wildcard of a glob; links to directories further down are not, so that
// a loop of links ends. A file that is reached in several ways, also through links, is in the set once.
func findFiles(paths, exclude []string, goroot func() (string, error)) ([]string, error) {
	wanted, err := newFinder(paths, goroot)
	if err != nil {
		return nil, err
	}
	unwanted, err := newFinder(exclude, goroot)
	if err != nil {
		return nil, err
	}
	var files []string
	for target, path := range wanted.files {
		if _, ok := unwanted.files[target]; !ok {
			files = append(files, path)
		}
	}
	if len(files) == 0 {
		return nil, errors.New("no file is left for training: the validation paths name all of them")
	}
	slices.Sort(files)
	return files, nil
}

// A finder collects files.
type finder struct {
	files       map[string]string // a file behind all links -> the first name in sorted order under which it was found
	directories map[string]string // a directory -> itself behind all links
}

// newFinder finds the files of all paths. A path that names none is an error.
func newFinder(paths []string, goroot func() (string, error)) (*finder, error) {
	f := &finder{files: make(map[string]string), directories: make(map[string]string)}
	for _, p := range paths {
		expanded, err := expandGoroot(p, goroot)
		if err == nil {
			err = f.find(expanded)
		}
		if err != nil {
			return nil, fmt.Errorf("data path %q: %w", p, err)
		}
	}
	return f, nil
}

// expandGoroot replaces a first path element $GOROOT. It is the only variable: a configuration must not change its
// meaning with the environment.
func expandGoroot(path string, goroot func() (string, error)) (string, error) {
	const variable = "$GOROOT"
	rest, ok := strings.CutPrefix(path, variable)
	if !ok || rest != "" && rest[0] != '/' {
		return path, nil
	}
	if goroot == nil {
		return "", errors.New(variable + " is not known here; write the directory's path")
	}
	root, err := goroot()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", variable, err)
	}
	return root + rest, nil
}

// find adds what one expanded path names.
func (f *finder) find(path string) error {
	if path == "" {
		return errors.New("the path is empty")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return f.walk(path)
	case err == nil && info.Mode().IsRegular():
		return f.add(path)
	case err == nil:
		return fmt.Errorf("%s is neither a file nor a directory", path)
	case errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(path, "*?[{"):
		return f.glob(path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s", path)
	}
	return err
}

// walk adds the files below a directory.
func (f *finder) walk(root string) error {
	found := false
	// Walking a file system rooted at the directory follows root itself where that is a link.
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			return nil
		}
		regular, err := f.addRegular(filepath.Join(root, name))
		found = found || regular
		return err
	})
	if err != nil {
		return fmt.Errorf("listing %s: %w", root, err)
	}
	if !found {
		return errors.New("the directory holds no files (hidden ones do not count)")
	}
	return nil
}

// glob adds the files that match a pattern.
func (f *finder) glob(pattern string) error {
	names, err := doublestar.FilepathGlob(pattern,
		doublestar.WithNoFollow(), doublestar.WithNoHidden(), doublestar.WithFailOnIOErrors())
	if err != nil {
		return fmt.Errorf("matching %s: %w", pattern, err)
	}
	found := false
	for _, name := range names {
		regular, err := f.addRegular(name)
		if err != nil {
			return err
		}
		found = found || regular
	}
	switch {
	case len(names) == 0:
		return fmt.Errorf("no file matches %s", pattern)
	case !found:
		return fmt.Errorf("%s matches only directories; add /** for the files below them", pattern)
	}
	return nil
}

// addRegular adds a path if it is a regular file, and not a directory, a link to one, a socket or the like, and says
// whether it is.
func (f *finder) addRegular(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	return true, f.add(path)
}

// add adds a regular file.
func (f *finder) add(path string) error {
	target, err := f.target(path)
	if err != nil {
		return err
	}
	if known, ok := f.files[target]; !ok || path < known {
		f.files[target] = path
	}
	return nil
}

// target returns the file behind all links. Links of a directory are followed once for all the files in it, which
// makes thousands of them cheap.
func (f *finder) target(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return filepath.EvalSymlinks(path)
	}
	directory, name := filepath.Split(path)
	target, ok := f.directories[directory]
	if !ok {
		if target, err = filepath.EvalSymlinks(directory); err != nil {
			return "", err
		}
		f.directories[directory] = target
	}
	return filepath.Join(target, name), nil
}
