package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A program is what the ranks run.
type program struct {
	path string // of the binary
	temp string // the directory that holds it if it was built, else empty
}

// remove deletes what was built. It may be called again.
func (p program) remove() {
	if p.temp != "" {
		_ = os.RemoveAll(p.temp) // nobody could act on an error, and the place is one for temporary files
	}
}

// prepare finds the binary called name, or builds it if name is a directory. Like a shell it looks for a name without a
// slash in PATH only.
func (l *launcher) prepare(name string) (program, error) {
	if strings.Contains(name, "/") {
		info, err := os.Stat(name)
		if err != nil {
			return program{}, usageError{fmt.Errorf("PROGRAM: %w; give a binary or a directory with a Go main package", err)}
		}
		if info.IsDir() {
			return l.build(name)
		}
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return program{path: path}, nil
	}
	if info, statErr := os.Stat(name); statErr == nil && info.IsDir() {
		return program{}, usageError{fmt.Errorf("PROGRAM: %w; to build the directory of this name write ./%s", err, name)}
	}
	return program{}, usageError{fmt.Errorf("PROGRAM: %w", err)}
}

// build compiles the main package in dir with the user's go into a directory of its own. It runs inside dir, so that the
// module around dir decides about versions, wherever launch was started.
func (l *launcher) build(dir string) (program, error) {
	temp, err := os.MkdirTemp("", "launch-")
	if err != nil {
		return program{}, fmt.Errorf("making a place for the binary of %s: %w", dir, err)
	}
	p := program{temp: temp}
	l.console.say("building %s with go build (the first time this may take a minute)", dir)
	if p.path, err = l.compile(dir, temp); err != nil {
		p.remove()
		return program{}, err
	}
	return p, nil
}

// compile runs go build in dir and returns the path of the binary, which is below temp.
func (l *launcher) compile(dir, temp string) (string, error) {
	bin, work := filepath.Join(temp, "bin"), filepath.Join(temp, "work")
	if err := errors.Join(os.Mkdir(bin, 0o700), os.Mkdir(work, 0o700)); err != nil {
		return "", fmt.Errorf("making a place for the binary of %s: %w", dir, err)
	}
	// An output that ends in a slash makes go refuse a package that is not main, and name the binary as go install would.
	cmd := exec.Command("go", "build", "-o", bin+"/", ".")
	cmd.Dir = dir
	// What go itself leaves behind when it is interrupted early is removed together with temp.
	cmd.Env = append(slices.Clone(l.environ), "PWD="+absolute(dir), "GOTMPDIR="+work)
	cmd.Stdout, cmd.Stderr = l.stderr.w, l.stderr.w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if err := l.wait(cmd); err != nil {
		return "", err
	}
	built, err := os.ReadDir(bin)
	if err == nil && len(built) != 1 {
		err = fmt.Errorf("go build made %d files, expected one", len(built))
	}
	if err != nil {
		return "", fmt.Errorf("building %s: %w", dir, err)
	}
	return filepath.Join(bin, built[0].Name()), nil
}

// wait runs go build to its end. A signal to launch interrupts it, a second one kills it.
func (l *launcher) wait(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting go build: %w; install Go, or give a binary in place of a directory", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var stopped os.Signal
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case stopped != nil:
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // compilers that still run
				return stoppedError{stopped}
			case errors.As(err, &exit):
				return usageError{fmt.Errorf("go build: %w", err)} // its own output says what is wrong
			}
			return err
		case sig := <-l.signals:
			next := syscall.SIGINT
			if stopped != nil {
				next = syscall.SIGKILL
			}
			stopped = sig
			_ = syscall.Kill(-cmd.Process.Pid, next) // fails only if the group has just ended
		}
	}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
