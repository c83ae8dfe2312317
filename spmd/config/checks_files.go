package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// checkFiles checks where the run writes and where it goes on from.
func (l *loader) checkFiles() {
	c := l.config
	if l.usable("run.output_dir") {
		l.checkOutput(c.Run.OutputDir)
	}
	if l.usable("checkpoint.resume") && c.Checkpoint.Resume != "auto" && c.Checkpoint.Resume != "none" {
		l.checkResume(c.Checkpoint.Resume)
	}
	if l.usable("run.output_dir", "run.mode", "checkpoint.resume") && c.Checkpoint.Resume == "none" && c.Run.Mode != "evaluate" {
		if found := traceOfRun(c.Run.OutputDir); found != "" {
			l.problem("checkpoint.resume", `"none" starts a new run, but `+quote(found)+" is from an earlier one", `use another run.output_dir, or "auto" to go on`)
		}
	}
}

// checkResume checks a directory to go on from.
func (l *loader) checkResume(dir string) {
	info, err := os.Stat(dir)
	near, isNear := nearest(dir, []string{"auto", "none"})
	switch {
	case err != nil && isNear:
		l.problem("checkpoint.resume", quote(dir)+": "+cause(err), "did you mean "+quote(near)+"?")
	case err != nil:
		l.problem("checkpoint.resume", quote(dir)+": "+cause(err), `use "auto", "none" or a directory such as OUTPUT_DIR/checkpoints/step-00000100`)
	case !info.IsDir():
		l.problem("checkpoint.resume", quote(dir)+" is not a directory", "give the directory of a checkpoint")
	}
}

// checkOutput checks, without writing, that a directory can be made and written.
func (l *loader) checkOutput(dir string) {
	const key = "run.output_dir"
	if dir == "" {
		l.problem(key, "is empty", "set it to a directory")
		return
	}
	at := dir
	for {
		info, err := os.Stat(at)
		parent := filepath.Dir(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && parent != at:
			at = parent
			continue
		case err != nil:
			l.problem(key, quote(at)+": "+cause(err), "use another directory")
		case !info.IsDir():
			l.problem(key, quote(at)+" is a file", "use another directory")
		case unix.Access(at, unix.W_OK|unix.X_OK) != nil:
			l.problem(key, quote(at)+" cannot be written", "change its permissions, or use another directory")
		}
		return
	}
}

// traceOfRun returns what an earlier run has left in its output directory, or nothing.
func traceOfRun(dir string) string {
	for _, name := range []string{"metrics.jsonl", "checkpoints", "model"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
