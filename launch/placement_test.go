package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	isLocal := func(name string) bool { return name == "me" || name == "localhost" }
	for _, c := range []struct {
		hosts string
		n     int
		by    mapping
		want  string // host:ranks, or a part of the error
	}{
		{"a:2,b:2", 4, mapBySlot, "a[0 1] b[2 3]"},
		{"a:2,b:2", 3, mapBySlot, "a[0 1] b[2]"},
		{"a:2,b:2", 2, mapBySlot, "a[0 1]"},
		{"a:2,b:2", 0, mapBySlot, "a[0 1] b[2 3]"},
		{"a:2,b:2", 3, mapByNode, "a[0 2] b[1]"},
		{"a:1,b:3,c:2", 6, mapByNode, "a[0] b[1 3 5] c[2 4]"},
		{"a,b,A:2", 4, mapBySlot, "a[0 1 2] b[3]"},
		{"me:1,a:1,localhost:2", 4, mapBySlot, "me*[0 1 2] a[3]"},
		{"a:2,b:2", 5, mapBySlot, "the hosts have 4 slots, too few for -n 5"},
		{"a:65536,b:65536", 0, mapBySlot, "at most 65536 ranks"},
	} {
		hosts, err := parseHostList(c.hosts)
		if err != nil {
			t.Fatal(err)
		}
		placed, err := place(hosts, c.n, c.by, isLocal)
		var parts []string
		for _, p := range placed {
			mark := ""
			if p.local {
				mark = "*"
			}
			parts = append(parts, fmt.Sprintf("%s%s%v", p.name, mark, p.ranks))
		}
		got := strings.Join(parts, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%d ranks on %s by %s: %s, want %s", c.n, c.hosts, c.by, got, c.want)
		}
	}
}

func TestIsThisHost(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "::1": true, "Node3.Cluster": true, "node3": true, "node4": false, "198.51.100.7": false,
	} {
		if got := isThisHost(name, "node3.cluster"); got != want {
			t.Errorf("isThisHost(%q) = %v", name, got)
		}
	}
}

func TestInterfaceAddress(t *testing.T) {
	for _, choice := range []string{"lo", "127.0.0.1", "127.0.0.0/8", ""} {
		if got, err := interfaceAddress(choice, "127.0.0.1:9"); err != nil || got != "127.0.0.1" {
			t.Errorf("--interface %q: %q, %v", choice, got, err)
		}
	}
	for _, choice := range []string{"no-such-interface", "198.51.100.0/24", "198.51.100.1"} {
		if got, err := interfaceAddress(choice, ""); err == nil || !strings.Contains(err.Error(), "it has the interfaces") {
			t.Errorf("--interface %q: %q, %v", choice, got, err)
		}
	}
}
