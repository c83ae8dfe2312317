package collective

import (
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// controlCongestion prepares a socket, before it connects or listens, for data between processes of one host. BBR, the
// default of many hosts, paces what it sends by a timer, which on the loopback interface only slows it down: nothing is ever
// lost there, and the receiver's buffer says when to stop. The choice counts from the first packet on; BBR's pacing stays
// with a socket that changes later.
//
// A process without privileges may always take Reno; without losses it sends as much as Cubic.
func controlCongestion(network, address string, c syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || !strings.HasPrefix(network, "tcp") || !ip.IsLoopback() {
		return nil
	}
	return c.Control(func(fd uintptr) {
		if unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") != nil {
			// A kernel without it keeps its default, which works too.
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
		}
	})
}
