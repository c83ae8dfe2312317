package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/collective"
)

const usage = `usage: launch -n N [options] PROGRAM [ARGS...]

Starts N processes of PROGRAM, the ranks of one job, and watches them until all have ended.

PROGRAM is a binary (a path, or a name in PATH) or a directory with a Go main package, such as
./spmd, which is built first. What follows PROGRAM is handed to it.

  -n N                   number of ranks (default with hosts: one for each slot)
  -H HOST[:SLOTS],...    where to start them (default: all on this host)
  --hostfile FILE        the same from a file, lines "host slots=4" or "host:4"
  --map-by slot|node     fill each host's slots in turn (default), or go round the hosts
  --rsh COMMAND          remote shell, with its options (default ssh)
  --agent-path FILE      launch on the other hosts (default: where it is here)
  --interface NAME|NET   network between the hosts: interface, address, or such as 10.0.0.0/8
  --ports FIRST-LAST     ports to listen at (default: any)
  -x NAME[=VALUE]        environment variable for all ranks; may be repeated
  --bind-to none|core    share a host's cores among its ranks (default none), and say how
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
const maxRanks = 1 << 16

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
	mapBy         mapping
	placed        []placement // what hosts and mapBy come to
	rsh           []string
	agentPath     string
	network       string
	ports         collective.PortRange
	vars          []string // -x: NAME=VALUE
	environ       []string // launch's own
	bind          binding
	output        outputMode
	grace         time.Duration
	program       string
	args          []string
}

// parseOptions reads the command line (without the program's name) and the hostfile that it names; environ is launch's own. All that is wrong comes
// back in one error, a line each.
func parseOptions(args, environ []string) (options, error) {
	o := options{environ: environ, output: outputRank0, grace: 30 * time.Second, mapBy: mapBySlot, bind: bindNone, rsh: []string{"ssh"}}
	var list, file string
	flags := flag.NewFlagSet("launch", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the error, and the usage where it is asked for
	flags.Func("n", "", o.setRanks)
	flags.Func("output", "", oneOf(&o.output, outputRank0, outputAll, outputNone))
	flags.Func("map-by", "", oneOf(&o.mapBy, mapBySlot, mapByNode))
	flags.Func("bind-to", "", oneOf(&o.bind, bindNone, bindCore))
	flags.Func("rsh", "", o.setRsh)
	flags.Func("ports", "", o.setPorts)
	flags.Func("x", "", o.setEnviron)
	flags.StringVar(&o.agentPath, "agent-path", "", "")
	flags.StringVar(&o.network, "interface", "", "")
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
	if o.ranks == 0 && !given["H"] && !given["hostfile"] {
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

// oneOf returns a flag's function that accepts one of some words.
func oneOf[T ~string](to *T, words ...T) func(string) error {
	return func(text string) error {
		if slices.Contains(words, T(text)) {
			*to = T(text)
			return nil
		}
		var list strings.Builder
		for i, word := range words {
			switch {
			case i == 0:
			case i == len(words)-1:
				list.WriteString(" or ")
			default:
				list.WriteString(", ")
			}
			list.WriteString(string(word))
		}
		return errors.New("give " + list.String())
	}
}

// setRsh reads a command with its options, separated by spaces.
func (o *options) setRsh(text string) error {
	if o.rsh = strings.Fields(text); len(o.rsh) == 0 {
		return errors.New("give a command, such as ssh or \"ssh -p 2222\"")
	}
	return nil
}

func (o *options) setPorts(text string) (err error) {
	if o.ports, err = collective.ParsePortRange(text); err == nil && text == "" {
		err = errors.New("give a range such as 20000-20100")
	}
	return err
}

// setEnviron reads NAME=VALUE, or NAME for the value that launch itself has.
func (o *options) setEnviron(text string) error {
	name, _, given := strings.Cut(text, "=")
	switch value, set := o.lookup(name); {
	case name == "":
		return errors.New("give NAME or NAME=VALUE")
	case given:
		o.vars = append(o.vars, text)
	case set:
		o.vars = append(o.vars, name+"="+value)
	default:
		return fmt.Errorf("%s is not set here; give %s=VALUE", name, name)
	}
	return nil
}

// lookup returns a variable of launch's environment.
func (o *options) lookup(name string) (value string, set bool) {
	for _, entry := range o.environ {
		if value, set = strings.CutPrefix(entry, name+"="); set {
			return value, true
		}
	}
	return "", false
}

func (o *options) setGrace(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("give a positive duration with its unit, such as 30s or 2m")
	}
	o.grace = d
	return nil
}
