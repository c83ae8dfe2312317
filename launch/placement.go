package main

import (
	"fmt"
	"strings"
)

// A mapping says how ranks are laid out on hosts.
type mapping string

const (
	mapBySlot mapping = "slot" // fill a host's slots, then the next host's
	mapByNode mapping = "node" // one rank on each host in turn, while it has slots
)

// A placement is a host with the ranks that run there, in order.
type placement struct {
	name  string
	ranks []int
	local bool // whether it is the host that launch runs on
}

// place spreads n ranks over hosts; n = 0 means one for each slot. A host that is named again has more slots. Hosts on which
// no rank runs are left out. isLocal says which names mean this host; all of those are one.
func place(hosts []host, n int, by mapping, isLocal func(name string) bool) ([]placement, error) {
	var placed []placement
	var slots []int
	index, room := map[string]int{}, 0
	for _, h := range hosts {
		local := isLocal(h.name)
		key := strings.ToLower(h.name)
		if local {
			key = ""
		}
		at, known := index[key]
		if !known {
			at = len(placed)
			index[key] = at
			placed, slots = append(placed, placement{name: h.name, local: local}), append(slots, 0)
		}
		slots[at] += h.slots
		room += h.slots
	}
	switch {
	case n == 0:
		n = room
	case room < n:
		return nil, fmt.Errorf("the hosts have %d slots, too few for -n %d; give them more slots or start fewer ranks", room, n)
	}
	if n > maxRanks {
		return nil, fmt.Errorf("the hosts have %d slots; at most %d ranks can be started", room, maxRanks)
	}
	for number, at := 0, 0; number < n; number++ {
		for len(placed[at].ranks) == slots[at] {
			at = (at + 1) % len(placed)
		}
		placed[at].ranks = append(placed[at].ranks, number)
		if by == mapByNode {
			at = (at + 1) % len(placed)
		}
	}
	used := placed[:0]
	for _, p := range placed {
		if len(p.ranks) > 0 {
			used = append(used, p)
		}
	}
	return used, nil
}
