// Spmd is the program that each rank of a job runs: it trains, fine-tunes or evaluates a language model as a TOML file says.
//
//	spmd CONFIG.toml [section.key=value ...]                train, fine-tune or evaluate (run.mode)
//	spmd check CONFIG.toml [-n N] [section.key=value ...]   validate everything, print the resolved configuration
//	spmd plan CONFIG.toml -n N [options]                    memory, traffic and idle time of N ranks, before anything starts
//	spmd preprocess --output PREFIX --tokenizer DIR PATH... text, JSON lines or Parquet -> .bin/.idx, and back
//	spmd generate MODEL_DIR --prompt TEXT [options]         sample from a trained model
//	spmd export SOURCE OUTPUT_DIR [options]                 a checkpoint or a model in another format
//	spmd bench collective [options]                         time the collectives between ranks
//
// It runs alone, as a job of one rank, or N times under launch. The exit status is 0 for a run that is done, 1 for one that
// failed, 2 where the configuration or the command line is wrong: then nothing was started or written.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"lockstep/spmd/train"
)

// version is what --version prints and what ranks of one job must agree on.
const version = "0.1.0"

const usage = `spmd trains language models, one process per rank.

  spmd CONFIG.toml [section.key=value ...]                train, fine-tune or evaluate (run.mode)
  spmd check CONFIG.toml [-n N] [section.key=value ...]   validate everything, print the resolved configuration
  spmd plan CONFIG.toml -n N [options]                    memory, traffic and idle time of N ranks; see spmd plan --help
  spmd preprocess --output PREFIX [options] PATH...       text, JSON lines or Parquet -> .bin/.idx, and back; see spmd preprocess --help
  spmd generate MODEL_DIR --prompt TEXT [options]         sample from a trained model; see spmd generate --help
  spmd export SOURCE OUTPUT_DIR [options]                 a checkpoint or a model in another format; see spmd export --help
  spmd bench collective [options]                         time the collectives between ranks; see spmd bench collective --help

Several ranks: launch -n 8 ./spmd CONFIG.toml. The keys are in docs/config.md.
`

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitRefused = 2
)

func main() {
	p := &program{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, goroot: goEnvGoroot}
	os.Exit(p.run(os.Args[1:]))
}

// A program is spmd with its surroundings.
type program struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	goroot         func() (string, error)
}

// A usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// run dispatches to a subcommand and returns the exit status.
func (p *program) run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.stderr, usage)
		return exitRefused
	}
	var err error
	switch args[0] {
	case "-h", "--help", "help":
		fmt.Fprint(p.stdout, usage)
	case "--version", "version":
		fmt.Fprintln(p.stdout, "spmd", version)
	case "check":
		err = p.check(args[1:])
	case "plan":
		err = p.plan(args[1:])
	case "preprocess":
		err = p.preprocess(args[1:])
	case "generate":
		err = p.generate(args[1:])
	case "bench":
		err = p.bench(args[1:])
	case "export":
		err = p.export(args[1:])
	default:
		if _, statErr := os.Stat(args[0]); errors.Is(statErr, fs.ErrNotExist) && !strings.Contains(args[0], ".") {
			return p.status(unknownCommand(args[0]))
		}
		err = p.train(args[0], args[1:])
	}
	return p.status(err)
}

// unknownCommand is what to say of a first argument that is neither a command nor a file.
func unknownCommand(name string) error {
	switch name {
	case "train":
		return &usageError{"training has no command: spmd CONFIG.toml"}
	}
	return &usageError{fmt.Sprintf("%q is neither a command nor a file; see spmd --help", name)}
}

// status prints an error and returns the exit status that it comes to.
func (p *program) status(err error) int {
	var wrongUsage *usageError
	var wrongConfig *train.ConfigurationError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errReported):
		return exitRefused
	case errors.As(err, &wrongUsage), errors.As(err, &wrongConfig):
		fmt.Fprintln(p.stderr, "spmd:", err)
		return exitRefused
	}
	fmt.Fprintln(p.stderr, "spmd:", err)
	return exitFailed
}

// errReported stands for problems of the configuration that have been printed.
var errReported = errors.New("the configuration is wrong")

// goEnvGoroot asks the go command where Go's sources are.
func goEnvGoroot() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("asking the go command for GOROOT: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
