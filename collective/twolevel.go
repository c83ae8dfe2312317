package collective

import (
	"slices"
)

// Two-level algorithms, for groups that span hosts: what can be done inside a host is done there, in its memory if its ranks
// share it (see inside.go), and only the rest travels between hosts. H hosts, p members, n bytes.
//
// All-reduce, where each host has the same number L of members: a reduce-scatter inside each host, an all-reduce of each
// part among the members that have it, one on each host, and an all-gather inside each host. Steps: those of the
// three. Bytes between hosts sent by each member: 2 (n/L) (H-1)/H. Where each host has 2^k neighbouring members and H is a
// power of two, the order is that of the aligned tree: its lower levels inside the hosts, its upper levels between them.
//
// All-reduce, otherwise: a reduce to the first member of each host, an all-reduce among those, a broadcast inside each host.
// Its order is another one than the tree's, so that it needs Options.AnyOrder, as does the former on hosts that are not a
// power of two.
//
// Reduce-scatter, where each host has the same number L of neighbouring members: the buffer is one block for each host, of
// the parts of its members. Each block is reduce-scattered inside each host, then each member and those in its place on the
// other hosts exchange the parts that they have of each other's blocks, directly. Steps: H inside, 1 of H-1 messages. Bytes
// between hosts sent by each member: (n/L) (H-1)/H. Its order is that of all-reduce.
//
// All-gather, on the same hosts: the reverse. Steps and bytes: the same.
//
// Broadcast: from the root to the first member of each host, then inside the hosts. On the root's host, the root is the
// first.

// A topology is how a group's members lie on hosts.
type topology struct {
	hosts int
	host  []int32 // of each member, numbered by the first member on each
	local int     // members on each host, where all have the same number, else 0
	// blocks says that each host has the same number of neighbouring members; aligned, that this number and that of the hosts
	// are powers of two.
	blocks, aligned bool
	// memory says that the members on each host share its memory.
	memory bool
}

// newTopology numbers hosts, given by any names, as they come.
func newTopology[T comparable](names []T) topology {
	t := topology{host: make([]int32, len(names))}
	numbers := map[T]int32{}
	var members []int
	for i, name := range names {
		h, ok := numbers[name]
		if !ok {
			h = int32(len(numbers))
			numbers[name] = h
			members = append(members, 0)
		}
		t.host[i] = h
		members[h]++
	}
	t.hosts, t.local = len(members), len(names)/max(1, len(members))
	neighbours := true
	for i, h := range t.host {
		if members[h] != t.local {
			t.local = 0
			break
		}
		neighbours = neighbours && int(h) == i/t.local
	}
	t.blocks = t.local > 0 && neighbours
	t.aligned = t.blocks && powerOfTwo(t.local) && powerOfTwo(t.hosts)
	return t
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// hostsOf returns names of the hosts of ranks. Ranks that listen at one address are on one host.
func (w *World) hostsOf(ranks []int) []string {
	names := make([]string, len(ranks))
	for i, rank := range ranks {
		names[i] = w.hostName(rank)
	}
	return names
}

func (w *World) hostName(rank int) string {
	switch {
	case w.o.hosts != nil:
		return string(rune('a' + w.o.hosts[rank]))
	case w.table != nil:
		return w.table.host(rank)
	}
	return ""
}

// teams are those of a group.
type teams struct {
	all    team
	local  team // the members on this host
	across team // the members in the same place on the other hosts, where all have the same number
	root   team // one member of each host, the root on its own; made by each broadcast
	first  team // the first member of each host, of which this may be none
}

func newTeams(g *group) teams {
	t := teams{all: team{g: g, me: g.me, size: len(g.ranks)}}
	top := &g.topology
	if top.hosts < 2 {
		return t
	}
	place := 0 // this member's among those on its host
	for i, h := range top.host {
		if h == top.host[g.me] {
			if i == g.me {
				place = len(t.local.members)
			}
			t.local.members = append(t.local.members, i)
		}
	}
	t.local = team{g: g, members: t.local.members, me: place, size: len(t.local.members), base: levelLocal}
	t.across = g.pick(place)
	t.root = team{g: g, base: levelAcross}
	t.first = g.pick(0)
	return t
}

// pick makes a team of the members that are in the given place on their hosts.
func (g *group) pick(place int) team {
	t := team{g: g, base: levelAcross}
	seen := make([]int, g.topology.hosts)
	for i, h := range g.topology.host {
		if seen[h] == place {
			if i == g.me {
				t.me = len(t.members)
			}
			t.members = append(t.members, i)
		}
		seen[h]++
	}
	t.size = len(t.members)
	return t
}

func (g *group) twoLevelAllReduce(w *work, mem []byte) error {
	if g.topology.local == 0 {
		return g.leadersAllReduce(w, mem)
	}
	local, across := &g.teams.local, &g.teams.across
	offsets := local.cut(len(mem), w.reduction.DType.Size())
	mine := mem[offsets[local.me]:offsets[local.me+1]]
	if err := g.reduceScatterInside(w, mem, offsets); err != nil {
		return err
	}
	if err := across.allReduce(w, mine, g.acrossAlgorithm(len(mem)/local.size)); err != nil {
		return err
	}
	return g.allGatherInside(w, mem, offsets)
}

func (g *group) twoLevelReduceScatter(w *work, mem []byte, offsets []int) error {
	for host := range g.topology.hosts {
		if err := g.reduceScatterInside(w, mem, g.block(offsets, host)); err != nil {
			return err
		}
	}
	return g.teams.across.directReduceScatter(w, mem, g.acrossParts(offsets))
}

func (g *group) twoLevelAllGather(w *work, mem []byte, offsets []int) error {
	if err := g.teams.across.directGather(w, mem, g.acrossParts(offsets), stepGather); err != nil {
		return err
	}
	for host := range g.topology.hosts {
		if err := g.allGatherInside(w, mem, g.block(offsets, host)); err != nil {
			return err
		}
	}
	return nil
}

// block returns where the parts of a host's members begin, and the end of the last.
func (g *group) block(offsets []int, host int) []int {
	l := g.topology.local
	return offsets[host*l : (host+1)*l+1]
}

// acrossParts are those of the members in this one's place on each host.
func (g *group) acrossParts(offsets []int) partition {
	return partition{offsets: offsets, first: g.teams.local.me, stride: g.topology.local}
}

// leadersAllReduce is all-reduce where hosts have different numbers of members.
func (g *group) leadersAllReduce(w *work, mem []byte) error {
	local, first := &g.teams.local, &g.teams.first
	if err := g.reduceInside(w, mem); err != nil {
		return err
	}
	if local.me == 0 {
		if err := first.allReduce(w, mem, g.acrossAlgorithm(len(mem))); err != nil {
			return err
		}
	}
	return g.broadcastInside(w, mem, 0)
}

func (g *group) twoLevelBroadcast(w *work, mem []byte) error {
	local, across := &g.teams.local, &g.teams.root
	rootHost, myHost := int(g.topology.host[w.root]), int(g.topology.host[g.me])
	across.members = append(across.members[:0], g.teams.first.members...)
	across.members[rootHost] = w.root
	across.me, across.size = myHost, len(across.members)
	if across.members[myHost] == g.me {
		if err := across.broadcast(w, mem, rootHost, Tree); err != nil {
			return err
		}
	}
	return g.broadcastInside(w, mem, max(0, slices.Index(local.members, w.root)))
}
