package train

import (
	"fmt"

	"lockstep/collective"
	"lockstep/spmd/config"
	"lockstep/spmd/mesh"
	"lockstep/spmd/model"
)

// split returns which tokens of each sample a rank has. Ranks that exchange heads are next to each other, so that they share a
// host where any do.
func split(c *config.Config, grid mesh.Mesh) model.Split {
	ring, ulysses := c.ContextSizes()
	at := grid.Coordinate(mesh.Context)
	return model.Split{Ring: ring, RingRank: at / ulysses, Ulysses: ulysses, UlyssesRank: at % ulysses}
}

// openContextGroups makes the groups that layers need where ranks share samples.
func (t *Trainer) openContextGroups() error {
	x, s := t.placed.contexts[0], t.Size.Split
	neighbours, ring := t.Mesh.ContextGroups(s.Ulysses)
	for _, g := range []struct {
		to    *collective.Group
		name  string
		ranks []int
	}{{&x.ContextRanks, "context", t.Mesh.Ranks(mesh.Context)}, {&x.Ulysses, "ulysses", neighbours}, {&x.Ring, "ring", ring}} {
		if len(g.ranks) == 1 {
			continue
		}
		group, err := t.World.NewGroup(g.name, g.ranks)
		if err != nil {
			return err
		}
		if g.to != &x.Ring { // which works while it waits
			group = group.Blocking()
		}
		*g.to = group
	}
	x.SumFloat64 = t.wideSum
	return nil
}

// describeContext says how samples are shared, "" where they are not.
func describeContext(s model.Size) string {
	ring, ulysses := s.Split.Ring, s.Split.Ulysses
	var how string
	switch {
	case ring == 1 && ulysses == 1:
		return ""
	case ulysses == 1:
		how = fmt.Sprintf("a ring of %d", ring)
	case ring == 1:
		how = fmt.Sprintf("ulysses over %d", ulysses)
	default:
		how = fmt.Sprintf("ulysses over %d, in a ring of %d", ulysses, ring)
	}
	return fmt.Sprintf("each sample over %d ranks, %s: %s tokens on each", s.Split.Ranks(), how, count(s.Sequence))
}
