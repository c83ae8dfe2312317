package collective

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"strconv"
)

// An addressTable says where each rank listens. Every rank holds one, so it is compact: four bytes for a rank, in place of
// a string.
type addressTable struct {
	Hosts []string `json:"hosts"` // addresses without a port
	Where []byte   `json:"where"` // for each rank the index of its host and its port, 16 bits each, big endian
}

// newAddressTable makes a table of addresses host:port in the order of ranks.
func newAddressTable(addresses []string) (*addressTable, error) {
	t := &addressTable{Where: make([]byte, 0, 4*len(addresses))}
	index := map[string]int{}
	for rank, address := range addresses {
		host, text, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("rank %d listens at %q: %w", rank, address, err)
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("rank %d listens at %q: %w", rank, address, err)
		}
		at, known := index[host]
		if !known {
			at = len(t.Hosts)
			if at > math.MaxUint16 {
				return nil, fmt.Errorf("the job has more than %d addresses", math.MaxUint16+1)
			}
			index[host] = at
			t.Hosts = append(t.Hosts, host)
		}
		t.Where = binary.BigEndian.AppendUint16(t.Where, uint16(at))
		t.Where = binary.BigEndian.AppendUint16(t.Where, uint16(port))
	}
	return t, nil
}

// check makes sure that the table, which came over the network, is one for size ranks.
func (t *addressTable) check(size int) error {
	if t == nil || len(t.Where) != 4*size {
		return fmt.Errorf("the root sent no table of %d addresses", size)
	}
	for rank := range size {
		if int(binary.BigEndian.Uint16(t.Where[4*rank:])) >= len(t.Hosts) {
			return fmt.Errorf("the root's table has no host for rank %d", rank)
		}
	}
	return nil
}

// host returns the address of a rank's host.
func (t *addressTable) host(rank int) string {
	return t.Hosts[binary.BigEndian.Uint16(t.Where[4*rank:])]
}

// address returns where a rank listens, host:port.
func (t *addressTable) address(rank int) string {
	port := binary.BigEndian.Uint16(t.Where[4*rank+2:])
	return net.JoinHostPort(t.host(rank), strconv.Itoa(int(port)))
}
