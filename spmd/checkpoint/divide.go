package checkpoint

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
)

// blockElements is what a tensor is cut in where several ranks share its writing: small tensors stay whole.
const blockElements = 4096

// digest stands for a part.
type digest [16]byte

func (p Part) digest() digest {
	s := p.Slice
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %s %v %v %v %d %d", p.Name, p.DType, s.Whole, s.From, s.Shape, s.Begin, s.End))
	return digest(sum[:])
}

// Divide says which elements of its parts this rank writes: a share of each part, some of them empty. Ranks that hold the same
// parts, such as data-parallel replicas, write each once, and about equally many bytes of them each. All Peers call it, and list
// what they have in common in the same order.
func (s *Store) Divide(ctx context.Context, parts []Part) ([]Part, error) {
	var mine []byte
	for _, p := range parts {
		d := p.digest()
		mine = append(mine, d[:]...)
	}
	all, err := s.peers.GatherBytes(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("dividing the state among the ranks: %w", err)
	}
	holders := map[digest][]int{}
	for rank, digests := range all {
		for d := range slices.Chunk(digests, len(digest{})) {
			holders[digest(d)] = append(holders[digest(d)], rank)
		}
	}
	common := map[string][]int{} // the parts that the same ranks hold, by these
	for i, p := range parts {
		key := fmt.Sprint(holders[p.digest()])
		common[key] = append(common[key], i)
	}
	shares := make([]Part, len(parts))
	for _, list := range common {
		ranks := holders[parts[list[0]].digest()]
		share(shares, parts, list, slices.Index(ranks, s.peers.Rank()), len(ranks))
	}
	return shares, nil
}

// share fills in the shares that one of n ranks writes of the listed parts: these lie one after the other and are cut in n.
func share(shares, parts []Part, list []int, me, n int) {
	total := 0
	for _, i := range list {
		total += parts[i].bytes(parts[i].Slice.Len())
	}
	at := 0
	for _, i := range list {
		p := parts[i]
		// border returns which element of the part is the first after cut k.
		border := func(k int) int {
			place := max(0, total*k/n-at)
			if k == n || place >= p.bytes(p.Slice.Len()) {
				return p.Slice.Len()
			}
			return place / p.bytes(1) / blockElements * blockElements
		}
		shares[i] = p
		shares[i].Slice = p.Slice.Range(border(me), border(me+1))
		at += p.bytes(p.Slice.Len())
	}
}
