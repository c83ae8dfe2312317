package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("localhost slots=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := parseOptions([]string{"-n", "2", "--output=all", "--grace", "1m", "--hostfile", file, "./spmd", "c.toml", "-n", "5", "--help"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.ranks != 2 || o.output != outputAll || o.grace != time.Minute || o.program != "./spmd" || len(o.hosts) != 1 || o.hosts[0].slots != 2 {
		t.Errorf("got %+v", o)
	}
	if want := []string{"c.toml", "-n", "5", "--help"}; !slices.Equal(o.args, want) {
		t.Errorf("the program's arguments are %q, want %q", o.args, want)
	}
}

func TestWrongCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"", []string{"give -n N before PROGRAM", "PROGRAM is missing", "see launch --help"}},
		{"-n 0 x", []string{`invalid value "0" for flag -n: give a number of ranks from 1 to 65536`}},
		{"-n 2 --output some x", []string{"give rank0, all or none"}},
		{"-n 2 --grace 5 x", []string{"give a positive duration with its unit"}},
		{"-n 2 --color x", []string{"not defined: -color"}},
		{"-n 2 -H localhost:2 --hostfile f x", []string{"both -H and --hostfile"}},
		{"-n 2 -H localhost x", []string{"the hosts have 1 slots, too few for -n 2"}},
		{"-n 2 --map-by core x", []string{"give slot or node"}},
		{"-n 2 --bind-to socket x", []string{"give none or core"}},
		{"-n 2 --ports 9-1 x", []string{`"9-1" is no range of ports; write it as 20000-20100`}},
		{"-n 2 -x NOT_SET_ANYWHERE x", []string{"NOT_SET_ANYWHERE is not set here; give NOT_SET_ANYWHERE=VALUE"}},
		{"-n 2 --rsh= x", []string{"give a command, such as ssh"}},
		{"-n 2 -H 198.51.100.7:2 --interface nope sh", []string{"--interface nope: no address of this host"}},
		{"-n 2 --hostfile /nowhere/hosts x", []string{"reading the hostfile: open /nowhere/hosts: no such file"}},
		{"-n 2 -H= x", []string{"-H, entry 1: a host without a name"}},
		{"-n 2 ./nowhere/x", []string{"PROGRAM: stat ./nowhere/x: no such file"}},
		{"-n 2 no-such-program-anywhere", []string{"PROGRAM: exec: \"no-such-program-anywhere\": executable file not found"}},
		{"-n 2 options_test.go", []string{"PROGRAM: exec: "}},
		{"-n 2 ./options_test.go", []string{"PROGRAM: exec: \"./options_test.go\": permission denied"}},
	} {
		l := start(strings.Fields(c.args)...)
		if got := l.wait(t); got != statusUsage {
			t.Errorf("launch %s: status %d, want %d", c.args, got, statusUsage)
		}
		for _, want := range c.want {
			if !strings.Contains(l.err.String(), want) {
				t.Errorf("launch %s:\n%s\nlacks %q", c.args, l.err, want)
			}
		}
		if l.out.String() != "" {
			t.Errorf("launch %s wrote %q to its output", c.args, l.out)
		}
	}
}

func TestPages(t *testing.T) {
	for args, want := range map[string]string{"--help": usage, "-h": usage, "--version": "launch "} {
		l := start(args)
		if got := l.wait(t); got != 0 || !strings.HasPrefix(l.out.String(), want) || l.err.String() != "" {
			t.Errorf("launch %s: status %d:\n%s%s", args, got, l.out, l.err)
		}
	}
	if lines := strings.Count(usage, "\n"); lines > 40 {
		t.Errorf("the usage has %d lines, more than a screen", lines)
	}
}
