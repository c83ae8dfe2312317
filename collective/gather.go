package collective

import "fmt"

// Gather of small host data, whose sizes differ: each member sends its part to all others.
//
// Steps: 1. Bytes sent by each member: (p-1) times its part.
func (g *group) gather(w *work) error {
	mine := w.host[g.me]
	for member, l := range g.links {
		if member != g.me {
			l.send(w.header(0, len(mine)), mine)
		}
	}
	for member, l := range g.links {
		if member == g.me {
			continue
		}
		want := w.header(0, 0)
		want.size = anySize
		size, err := l.receive(want)
		if err != nil {
			return err
		}
		if size < 0 || size > maxGatherBytes {
			return fmt.Errorf("rank %d sends %d bytes, more than the limit of %d", g.ranks[member], size, maxGatherBytes)
		}
		w.host[member] = make([]byte, size)
		if err := l.read(w.host[member]); err != nil {
			return err
		}
	}
	for member, l := range g.links {
		if member != g.me {
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
