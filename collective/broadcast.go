package collective

import "math/bits"

// Broadcast of n bytes down a binomial tree. Members are counted from the root, v = (position - root) mod p. The parent of
// v is v without its lowest bit; its children are v + 2^j for all 2^j below that bit (for the root, below p). A member
// passes each segment on as soon as it has it, so that all levels of the tree are busy at once.
//
// Steps: ceil(log2(p)) for one segment, one more for each further segment. Bytes sent: n for each child, at most
// n ceil(log2(p)) (by the root).
func (g *group) broadcast(w *work) error {
	mem := w.buf.Mapped()
	p := g.Size()
	v := (g.me - w.root + p) % p
	reach := v & -v // children are nearer than this
	if v == 0 {
		reach = 1 << bits.Len(uint(p-1))
	} else if _, err := g.linkTo(w, v&(v-1)).receive(w.header(0, len(mem))); err != nil {
		return err
	}
	for from := 0; from == 0 || from < len(mem); from += g.segment {
		part := mem[from:min(from+g.segment, len(mem))]
		if v != 0 {
			if err := g.linkTo(w, v&(v-1)).read(part); err != nil {
				return err
			}
		}
		for distance := reach / 2; distance > 0; distance /= 2 { // the child with the most below it first
			if v+distance >= p {
				continue
			}
			if child := g.linkTo(w, v+distance); from == 0 {
				child.send(w.header(0, len(mem)), part)
			} else {
				child.more(part)
			}
		}
	}
	for distance := reach / 2; distance > 0; distance /= 2 {
		if v+distance < p {
			if err := g.linkTo(w, v+distance).flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkTo returns the link to the member that is number v when counted from the operation's root.
func (g *group) linkTo(w *work, v int) link { return g.links[(v+w.root)%g.Size()] }
