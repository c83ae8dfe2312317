package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"time"
)

const usage = `usage: launch -n N [options] PROGRAM [ARGS...]

Starts N processes of PROGRAM, the ranks of one job, and watches them until all have ended.

PROGRAM is a binary (a path, or a name in PATH) or a directory with a Go main package, such as
./spmd, which is built first. What follows PROGRAM is handed to it.

  -n N                   number of ranks
  -H HOST[:SLOTS],...    where to start them (so far only this host; default: all here)
  --hostfile FILE        the same from a file, lines "host slots=4" or "host:4"
  --output rank0|all|none
                         whose output to show (default rank0). With all, each line carries its
                         rank. The last lines of a rank that fails are shown in any case.
  --grace DURATION       how long ranks may take to end when the job is stopped, before they are
                         killed (default 30s)
  --version              print the version
  --help                 print this page

Ctrl-C, SIGTERM or SIGHUP asks each rank, once, to finish: spmd then writes a checkpoint. A second
one kills the ranks.

Exit status: 0 if all ranks ended with 0, else that of the rank that failed first (128+n when
signal n killed it); 2 if the command line is wrong; 1 if the ranks could not be started.

Example: launch -n 2 ./spmd configs/quickstart.toml
`

// maxRanks bounds -n, so that a slip of the finger does not fill the process table.
const maxRanks = 1024

// An outputMode says whose output is shown while the job runs.
type outputMode string

const (
	outputRank0 outputMode = "rank0"
	outputAll   outputMode = "all"
	outputNone  outputMode = "none"
)

// options is a parsed command line.
type options struct {
	help, version bool
	ranks         int
	hosts         []host // nil: this host
	output        outputMode
	grace         time.Duration
	program       string
	args          []string
}

// parseOptions reads the command line (without the program's name) and the hostfile that it names. All that is wrong comes
// back in one error, a line each.
func parseOptions(args []string) (options, error) {
	o := options{output: outputRank0, grace: 30 * time.Second}
	var list, file string
	flags := flag.NewFlagSet("launch", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the error, and the usage where it is asked for
	flags.Func("n", "", o.setRanks)
	flags.Func("output", "", o.setOutput)
	flags.Func("grace", "", o.setGrace)
	flags.StringVar(&list, "H", "", "")
	flags.StringVar(&file, "hostfile", "", "")
	flags.BoolVar(&o.version, "version", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return options{help: true}, nil
	} else if err != nil {
		return o, err
	}
	if o.version {
		return o, nil
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var wrong []error
	if o.ranks == 0 {
		wrong = append(wrong, errors.New("the number of ranks is missing; give -n N before PROGRAM"))
	}
	if flags.NArg() == 0 {
		wrong = append(wrong, errors.New("PROGRAM is missing; give a binary or a directory with a Go main package"))
	} else {
		o.program, o.args = flags.Arg(0), flags.Args()[1:]
	}
	var err error
	switch {
	case given["H"] && given["hostfile"]:
		err = errors.New("both -H and --hostfile name the hosts; leave one away")
	case given["H"]:
		o.hosts, err = parseHostList(list)
	case given["hostfile"]:
		o.hosts, err = readHostfile(file)
	}
	return o, errors.Join(append(wrong, err)...)
}

func (o *options) setRanks(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxRanks {
		return fmt.Errorf("give a number of ranks from 1 to %d", maxRanks)
	}
	o.ranks = n
	return nil
}

func (o *options) setOutput(text string) error {
	switch mode := outputMode(text); mode {
	case outputRank0, outputAll, outputNone:
		o.output = mode
		return nil
	}
	return fmt.Errorf("give %s, %s or %s", outputRank0, outputAll, outputNone)
}

func (o *options) setGrace(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("give a positive duration with its unit, such as 30s or 2m")
	}
	o.grace = d
	return nil
}
