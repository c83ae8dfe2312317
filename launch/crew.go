package main

import (
	"os"
)

// A crew is the team of this host: processes that are children of this one.
type crew struct {
	starter   *starter
	processes []*process
}

// start implements team. It must be called on a thread that lives as long as the ranks.
func (c *crew) start(ended chan<- exit) ([]*rank, error) {
	var ranks []*rank
	for local := range c.starter.ranks {
		p, err := c.starter.start(local)
		if err != nil {
			return ranks, err
		}
		c.processes = append(c.processes, p)
		r := &rank{number: p.number, control: p, tail: p.tail, shown: p.shown}
		ranks = append(ranks, r)
		go func() {
			p.awaitExit()
			ended <- exit{r, p.reap}
		}()
	}
	return ranks, nil
}

// drain implements team.
func (c *crew) drain() {
	for _, p := range c.processes {
		p.relays.Wait()
	}
}

// A lifeline is a pipe of which ranks hold the read end: that it ends tells them that launch, or its agent, is gone.
type lifeline struct{ read, held *os.File }

func newLifeline() (lifeline, error) {
	read, held, err := os.Pipe()
	return lifeline{read, held}, err
}

// close ends the lifeline. Ranks must have ended.
func (l lifeline) close() {
	l.read.Close()
	l.held.Close()
}
