package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"lockstep/collective"
)

// fanOut is how many relays connect to the root or to another relay.
const fanOut = 32

// A cluster is the other hosts of a job: their agents, from the start of the first to the end of the last.
type cluster struct {
	launcher *launcher
	o        options
	remotes  []*remote
}

// others returns the placements that need an agent.
func others(placed []placement) []placement {
	var away []placement
	for _, p := range placed {
		if !p.local {
			away = append(away, p)
		}
	}
	return away
}

// startAgents starts an agent on each other host, and returns when all are ready and have the same files as this one.
func (l *launcher) startAgents(o options, p program, j jobNames, root *collective.Root) (*cluster, error) {
	c := &cluster{launcher: l, o: o}
	away := others(o.placed)
	if len(away) == 0 {
		return c, nil
	}
	if p.temp != "" {
		return nil, usageError{fmt.Errorf("PROGRAM is a directory, and what is built here is not copied to other hosts; build a binary where all hosts find it, such as go build -o bin/ %s", o.program)}
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the working directory: %w", err)
	}
	command, err := agentCommand(o.agentPath)
	if err != nil {
		return nil, err
	}
	common := assignment{
		Hosts: len(away), Size: o.ranks, Job: j.name, Secret: j.secret, Root: root.Outside(), Interface: o.network, Ports: o.ports, Dir: dir,
		Program: absolute(p.path), Args: o.args, Environ: o.vars, Files: comparedFiles(absolute(p.path), o.args),
		Output: o.output, Bind: o.bind, StartTimeout: startTimeout,
	}
	for i, host := range away {
		a := common
		a.Name, a.Host, a.Ranks, a.Relays = host.name, i, host.ranks, (i+1)*fanOut < len(away)
		r := &remote{host: host, index: i, root: root, c: l.console, output: o.output, settle: l.timing.settle}
		if err := startRemote(o.rsh, command, a, r); err != nil {
			c.stop()
			return nil, err
		}
		c.remotes = append(c.remotes, r)
	}
	if err := c.awaitReady(root.Outside(), checksums(common.Files)); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// awaitReady waits until all agents are ready, tells each where its relay connects to, and compares their files.
func (c *cluster) awaitReady(root string, sums map[string]string) error {
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	var wrong []error
	var different []string
	addresses := make([]string, len(c.remotes))
	for i, r := range c.remotes {
		select {
		case f := <-r.ready:
			if f.Kind == frameFailed {
				wrong = append(wrong, fmt.Errorf("host %s: %s", r.host.name, f.Text))
				continue
			}
			addresses[i] = f.Address
			different = append(different, differences(r.host.name, sums, f.Sums)...)
		case sig := <-c.launcher.signals:
			return stoppedError{sig}
		case <-limit.C:
			return fmt.Errorf("host %s: no answer from its agent within %v", r.host.name, startTimeout)
		}
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	if len(different) > 0 {
		return usageError{errors.New(strings.Join(different, "\n"))}
	}
	for i, r := range c.remotes {
		r.parent = root
		if i >= fanOut {
			r.parent = addresses[i/fanOut-1]
		}
	}
	return nil
}

// stop ends all agents and waits until they are gone.
func (c *cluster) stop() {
	for _, r := range c.remotes {
		r.stop()
	}
}

// finish waits until the agents, whose ranks have ended, are gone.
func (c *cluster) finish(patience time.Duration) {
	late := time.AfterFunc(patience, func() {
		for _, r := range c.remotes {
			_ = syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	defer late.Stop()
	for _, r := range c.remotes {
		<-r.over
	}
}
