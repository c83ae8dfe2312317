package collective

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
)

// Split implements Group.
func (g *group) Split(ctx context.Context, name string, colour, key int) (Group, error) {
	mine := binary.BigEndian.AppendUint64(nil, uint64(colour))
	mine = binary.BigEndian.AppendUint64(mine, uint64(key))
	answers, err := g.GatherBytes(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("splitting group %s: %w", g.name, err)
	}
	type member struct{ position, key int }
	var chosen []member
	for position, answer := range answers {
		if len(answer) != len(mine) {
			return nil, fmt.Errorf("splitting group %s: rank %d does not split it", g.name, g.ranks[position])
		}
		if int(int64(binary.BigEndian.Uint64(answer))) == colour {
			chosen = append(chosen, member{position, int(int64(binary.BigEndian.Uint64(answer[8:])))})
		}
	}
	if colour < 0 {
		return nil, nil
	}
	slices.SortStableFunc(chosen, func(a, b member) int { return cmp.Compare(a.key, b.key) })
	ranks := make([]int, len(chosen))
	for i, m := range chosen {
		ranks[i] = g.ranks[m.position]
	}
	return g.world.NewGroup(name, ranks)
}
