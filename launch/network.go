package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// interfaceAddress returns the IP address of this host at which other hosts of the job reach it. choice is what the user said:
// the name of an interface, an address, or a network such as 10.0.0.0/8; if it is empty, the address from which this host
// reaches toward, host:port or a host's name.
func interfaceAddress(choice, toward string) (string, error) {
	if choice == "" {
		return addressToward(toward)
	}
	network, err := netip.ParsePrefix(choice)
	if address, errAddress := netip.ParseAddr(choice); errAddress == nil {
		network, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	isNetwork := err == nil
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("--interface: %w", err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
		if !isNetwork && i.Name != choice {
			continue
		}
		for _, address := range addressesOf(i) {
			if !isNetwork || network.Contains(address) {
				return address.String(), nil
			}
		}
	}
	return "", fmt.Errorf("--interface %s: no address of this host is of it; it has the interfaces %s", choice, strings.Join(names, ", "))
}

// addressesOf returns the addresses of an interface that others can use, IPv4 first.
func addressesOf(i net.Interface) []netip.Addr {
	assigned, err := i.Addrs()
	if err != nil {
		return nil // it has just gone
	}
	var found []netip.Addr
	for _, a := range assigned {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			found = append(found, p.Addr())
		}
	}
	slices.SortStableFunc(found, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return found
}

// addressToward returns the address from which packets to a host leave. Connecting a UDP socket sends none.
func addressToward(host string) (string, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "9")
	}
	conn, err := net.Dial("udp", host)
	if err != nil {
		return "", fmt.Errorf("finding the interface that leads to %s: %w; name it with --interface", host, err)
	}
	defer conn.Close()
	local, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return local, err
}

// isThisHost says whether a name of the user's means the machine that launch runs on.
func isThisHost(name, hostname string) bool {
	short, _, _ := strings.Cut(hostname, ".")
	for _, own := range []string{"localhost", "127.0.0.1", "::1", hostname, short} {
		if strings.EqualFold(name, own) {
			return true
		}
	}
	address, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(interfaces, func(i net.Interface) bool {
		assigned, err := i.Addrs()
		return err == nil && slices.ContainsFunc(assigned, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == address.WithZone("")
		})
	})
}
