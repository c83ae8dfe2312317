package collective

import (
	"fmt"
	"strings"
	"testing"
)

// load returns what a member of a group over TCP has sent or received, whichever is more.
func load(g Group) (messages, bytes int) {
	var sent, received counter
	for _, l := range g.(*group).links {
		l := l.(*tcpLink)
		sent.messages += l.sent.messages
		sent.bytes += l.sent.bytes
		received.messages += l.received.messages
		received.bytes += l.received.bytes
	}
	return max(sent.messages, received.messages), max(sent.bytes, received.bytes)
}

// TestFormulas counts the messages and bytes of every algorithm and compares them with the cost model's, whose formulas are
// those of the documentation.
func TestFormulas(t *testing.T) {
	cases := map[int][]int{2: {1}, 3: {1}, 4: {1, 2}, 5: {1}, 6: {1, 2, 3}, 8: {1, 2, 4}, 9: {1, 3}, 16: {1, 2, 4, 8}}
	for p, hosts := range cases {
		for _, h := range hosts {
			t.Run(fmt.Sprintf("p=%d/hosts=%d", p, h), func(t *testing.T) {
				t.Parallel()
				for kind := opAllReduce; kind <= opAllToAll; kind++ {
					checkFormulas(t, Case{Operation: kind.String(), Members: p, Hosts: h, Bytes: 8 * 16 * 3 * p, AnyOrder: true}, kind)
				}
			})
		}
	}
}

func checkFormulas(t *testing.T, c Case, kind operationKind) {
	t.Helper()
	estimates, err := Estimates(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range estimates {
		var hosts strings.Builder
		for rank := range c.Members {
			fmt.Fprint(&hosts, rank/(c.Members/c.Hosts))
		}
		anyOrder := func(_ *RootOptions, o *Options) { o.AnyOrder = true }
		j := newJob(t, c.Members, knobs(0, e.Algorithm), onHosts(hosts.String()), anyOrder)
		groups := j.groups("data")
		call := &testCase{kind: kind, r: sum64(), before: make([][]byte, c.Members), after: make([][]byte, c.Members), src: make([][]byte, c.Members)}
		call.from, call.to = make([]int, c.Members), make([]int, c.Members)
		for i := range c.Members {
			call.before[i], call.src[i] = make([]byte, c.Bytes), make([]byte, c.Bytes)
			if (kind == opScatter || kind == opGather) && i != 0 {
				call.before[i] = call.before[i][:c.Bytes/c.Members]
			}
		}
		j.all(func(rank int) error { return call.start(groups[rank], memory)() })
		messages, bytes := 0, 0
		for _, g := range groups {
			m, b := load(g)
			messages, bytes = max(messages, m), max(bytes, b)
		}
		if messages != e.Messages || bytes != e.Bytes {
			t.Errorf("%s by %v of %d bytes over %d members on %d hosts: the busiest has %d messages and %d bytes, the formula gives %d and %d",
				c.Operation, e.Algorithm, c.Bytes, c.Members, c.Hosts, messages, bytes, e.Messages, e.Bytes)
		}
	}
}

// TestTwoLevelIsChosen asks the model, and groups of two hosts whose ranks share memory, or of which some do not.
func TestTwoLevelIsChosen(t *testing.T) {
	for _, operation := range []string{"all-reduce", "reduce-scatter", "all-gather"} {
		for _, n := range []int{64 << 10, 64 << 20} {
			e, err := Estimates(Case{Operation: operation, Members: 8, Hosts: 2, Bytes: n, Memory: true})
			if err != nil || e[0].Algorithm != TwoLevel {
				t.Errorf("%s of %d bytes: %v, %v", operation, n, e, err)
			}
		}
	}
	overTCP := func(_ *RootOptions, o *Options) {
		if o.Place.Rank == 2 {
			o.Backend = BackendTCP
		}
	}
	for name, test := range map[string]struct {
		options []jobOption
		memory  bool
	}{
		"memory": {[]jobOption{sharedInside()}, true}, "a rank without": {[]jobOption{sharedInside(), overTCP}, false}, "tcp": {nil, false},
	} {
		j := newJob(t, 4, append(test.options, onHosts("0011"))...)
		for rank, g := range j.groups("data") {
			if got := g.(*group).topology.memory; got != test.memory {
				t.Errorf("%s: rank %d takes it that the hosts' ranks share memory: %v", name, rank, got)
			}
		}
	}
}
