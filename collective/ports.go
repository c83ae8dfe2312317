package collective

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// A PortRange is a range of TCP ports to listen at, as firewalls are told of. The zero value lets the kernel choose.
type PortRange struct{ First, Last uint16 }

// ParsePortRange reads "20000-20100" or one port, "20000". The empty text is the zero range.
func ParsePortRange(text string) (PortRange, error) {
	if text == "" {
		return PortRange{}, nil
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, errFirst := strconv.ParseUint(low, 10, 16)
	last, errLast := strconv.ParseUint(high, 10, 16)
	if errors.Join(errFirst, errLast) != nil || first == 0 || last < first {
		return PortRange{}, fmt.Errorf("%q is no range of ports; write it as 20000-20100", text)
	}
	return PortRange{uint16(first), uint16(last)}, nil
}

// String returns the range as ParsePortRange reads it.
func (p PortRange) String() string {
	if p == (PortRange{}) {
		return ""
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// listen opens a listener at a free port of the range. It begins anywhere in the range, since many processes look for a port
// at the same time.
func (p PortRange) listen(host string) (net.Listener, error) {
	config := net.ListenConfig{Control: controlCongestion}
	size := int(p.Last) - int(p.First) + 1
	begin := rand.IntN(size)
	for i := range size {
		port := int(p.First) + (begin+i)%size
		l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("all ports of %v are in use on %s; give a wider range", p, host)
}
