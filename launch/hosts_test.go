package main

import (
	"strings"
	"testing"
)

func TestParseHosts(t *testing.T) {
	list := func(text string) ([]host, error) { return parseHostList(text) }
	file := func(text string) ([]host, error) { return parseHostfile("hosts", strings.NewReader(text)) }
	for _, c := range []struct {
		parse func(string) ([]host, error)
		text  string
		want  []host // name and slots
		err   string // a part of the error
	}{
		{list, "a", []host{{name: "a", slots: 1}}, ""},
		{list, "a:4, b ,a:2", []host{{name: "a", slots: 4}, {name: "b", slots: 1}, {name: "a", slots: 2}}, ""},
		{list, "::1,[::1]:3,[fe80::1%eth0]", []host{{name: "::1", slots: 1}, {name: "::1", slots: 3}, {name: "fe80::1%eth0", slots: 1}}, ""},
		{list, "a,,b", nil, "-H, entry 2: a host without a name"},
		{list, "a:x", nil, `-H, entry 1: a: "x" is not a number of slots; give 1 to 65536`},
		{list, "a:0", nil, "is not a number of slots"},
		{list, "a:", nil, "is not a number of slots"},
		{list, "[::1", nil, "written [::1]:4"},
		{list, "[::1]4", nil, "written [::1]:4"},
		{list, "a/b", nil, `"a/b" is not a host name: '/' cannot be in one`},
		{list, strings.Repeat("a", 300), nil, "a host name of 300 characters"},
		{list, strings.Repeat("a,", maxHosts) + "a", nil, "more than 16384 hosts"},
		{file, "# nodes\n\nn1 slots=4 max_slots=8 # fast\nn2:2\nn3\n", []host{{name: "n1", slots: 4}, {name: "n2", slots: 2}, {name: "n3", slots: 1}}, ""},
		{file, "n1 max-slots=2\r\n", []host{{name: "n1", slots: 1}}, ""},
		{file, "n1\nn2 4", nil, `hosts:2: "4" is not key=value; write "n2 slots=4" or "n2:4"`},
		{file, "n1:1 slots=1", nil, "hosts:1: the number of slots of n1 is given twice"},
		{file, "n1 slots=1 slots=2", nil, "given twice"},
		{file, "n1 slots=", nil, `hosts:1: slots: "" is not a number`},
		{file, "n1 slots=4 max_slots=3", nil, "hosts:1: max_slots=3 is less than the 4 slots of n1"},
		{file, "n1 sockets=2", nil, `hosts:1: unknown key "sockets"; known are slots and max_slots`},
		{file, "\n# nothing\n", nil, "hosts: the file names no host"},
		{file, "a\n" + strings.Repeat("b", 100_000), nil, "hosts:2: the line is too long"},
		{file, strings.Repeat("# comment\n", 200_000), nil, "is this a hostfile?"},
		{file, strings.Repeat("a\n", maxHosts+1), nil, "hosts:16385: more than 16384 hosts"},
	} {
		got, err := c.parse(c.text)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%.40q: error %v, want %q", c.text, err, c.err)
			}
			continue
		}
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%.40q: got %v, %v; want %v", c.text, got, err, c.want)
			continue
		}
		for i, h := range got {
			if h.name != c.want[i].name || h.slots != c.want[i].slots || h.place == "" {
				t.Errorf("%.40q: host %d is %+v, want %+v", c.text, i, h, c.want[i])
			}
		}
	}
}

func FuzzHostfile(f *testing.F) {
	for _, seed := range []string{"n1 slots=4 max_slots=8 # fast\nn2:2\n", "[::1]:3\n::1", "a:1 slots=1", "\x00\xff", ":::", "[", "a slots=99999999999999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fromFile, err := parseHostfile("hosts", strings.NewReader(text))
		if err == nil && len(fromFile) == 0 {
			t.Error("a hostfile without hosts is accepted")
		}
		fromList, _ := parseHostList(text)
		for _, h := range append(fromFile, fromList...) {
			if checkHostName(h.name) != nil || h.slots < 1 || h.slots > maxSlots || h.place == "" {
				t.Errorf("accepted %+v", h)
			}
		}
	})
}
