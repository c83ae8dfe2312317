package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// A host is a machine with room for some ranks.
type host struct {
	name  string
	slots int
	place string // where the user named it, such as "nodes.txt:3", for messages
}

// Bounds on what a host list may hold. They are far above any cluster and keep a wrong file (a binary, a log) from being
// read for long.
const (
	maxHostfileBytes = 1 << 20
	maxHosts         = 1 << 14
	maxSlots         = 1 << 16
	maxHostName      = 253 // RFC 1035
)

// parseHostList reads the argument of -H: host or host:slots, separated by commas. A host without a number has one slot;
// one that is named again has more, as with mpirun.
func parseHostList(list string) ([]host, error) {
	var hosts []host
	for i, item := range strings.Split(list, ",") {
		place := fmt.Sprintf("-H, entry %d", i+1)
		if len(hosts) == maxHosts {
			return nil, fmt.Errorf("%s: more than %d hosts", place, maxHosts)
		}
		h, err := parseHostItem(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		h.slots, h.place = max(h.slots, 1), place
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// readHostfile reads the file of --hostfile.
func readHostfile(path string) ([]host, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the hostfile: %w", err)
	}
	defer f.Close()
	return parseHostfile(path, f)
}

// parseHostfile reads a hostfile in either of the usual forms, one host a line, # begins a comment:
//
//	node1 slots=4 max_slots=8    Open MPI
//	node1:4                      MPICH
//
// A line without a number gives the host one slot. name is the file's name, for messages.
func parseHostfile(name string, r io.Reader) ([]host, error) {
	limited := &io.LimitedReader{R: r, N: maxHostfileBytes + 1}
	lines := bufio.NewScanner(limited)
	var hosts []host
	number := 0
	for lines.Scan() {
		number++
		place := fmt.Sprintf("%s:%d", name, number)
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if len(hosts) == maxHosts {
			return nil, fmt.Errorf("%s: more than %d hosts", place, maxHosts)
		}
		h, err := parseHostLine(fields)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		h.place = place
		hosts = append(hosts, h)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%s:%d: the line is too long for a hostfile; is this the right file?", name, number+1)
	case err != nil:
		return nil, fmt.Errorf("reading the hostfile %s: %w", name, err)
	case limited.N <= 0:
		return nil, fmt.Errorf("%s: the file is larger than %d bytes; is this a hostfile?", name, maxHostfileBytes)
	case len(hosts) == 0:
		return nil, fmt.Errorf("%s: the file names no host; write one a line, such as \"localhost slots=4\"", name)
	}
	return hosts, nil
}

// parseHostLine reads the fields of one line of a hostfile.
func parseHostLine(fields []string) (host, error) {
	h, err := parseHostItem(fields[0])
	if err != nil {
		return host{}, err
	}
	limit := 0
	for _, field := range fields[1:] {
		key, value, found := strings.Cut(field, "=")
		if !found {
			return host{}, fmt.Errorf("%q is not key=value; write \"%s slots=4\" or \"%s:4\"", field, h.name, h.name)
		}
		switch key {
		case "slots":
			if h.slots != 0 {
				return host{}, fmt.Errorf("the number of slots of %s is given twice; leave one away", h.name)
			}
			h.slots, err = parseSlots(value)
		case "max_slots", "max-slots":
			limit, err = parseSlots(value)
		default:
			return host{}, fmt.Errorf("unknown key %q; known are slots and max_slots", key)
		}
		if err != nil {
			return host{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	h.slots = max(h.slots, 1)
	// Open MPI's max_slots bounds oversubscription. launch never starts more ranks than slots, so it has only to be sane.
	if limit != 0 && limit < h.slots {
		return host{}, fmt.Errorf("max_slots=%d is less than the %d slots of %s", limit, h.slots, h.name)
	}
	return h, nil
}

// parseHostItem reads name, name:slots, or an IPv6 address, which needs brackets to be followed by a number: [::1]:4.
// Without a number, slots stays 0.
func parseHostItem(item string) (host, error) {
	name, slots, counted := item, "", false
	switch {
	case strings.HasPrefix(item, "["):
		inner, rest, closed := strings.Cut(item[1:], "]")
		if !closed || rest != "" && rest[0] != ':' {
			return host{}, fmt.Errorf("%q is not a host; an IPv6 address with slots is written [::1]:4", item)
		}
		name, counted = inner, rest != ""
		slots = strings.TrimPrefix(rest, ":")
	case strings.Count(item, ":") == 1:
		name, slots, counted = strings.Cut(item, ":")
	}
	if err := checkHostName(name); err != nil {
		return host{}, err
	}
	if !counted {
		return host{name: name}, nil
	}
	n, err := parseSlots(slots)
	if err != nil {
		return host{}, fmt.Errorf("%s: %w", name, err)
	}
	return host{name: name, slots: n}, nil
}

func parseSlots(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxSlots {
		return 0, fmt.Errorf("%q is not a number of slots; give 1 to %d", text, maxSlots)
	}
	return n, nil
}

// checkHostName accepts what can be a host name or an address; whether it exists is another question.
func checkHostName(name string) error {
	if name == "" {
		return errors.New("a host without a name; write host or host:slots")
	}
	if len(name) > maxHostName {
		return fmt.Errorf("a host name of %d characters; at most %d are allowed", len(name), maxHostName)
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-._:%", c):
		default:
			return fmt.Errorf("%q is not a host name: %q cannot be in one", name, c)
		}
	}
	return nil
}
