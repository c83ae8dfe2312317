package collective

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// The ranks of one host hand memory to one another over unix sockets. Each listens on one whose name is random and in the
// abstract name space, so that nothing is left in a file system, and lets in whoever passes the same handshake as over
// TCP. Two ranks are on one host when they run under one boot of one kernel and in one network name space, which is what
// an abstract socket reaches; containers with networks of their own count as hosts.

// The values of Options.Backend.
const (
	// BackendAuto takes shared memory between ranks of one host, TCP between hosts. It is the default.
	BackendAuto = "auto"
	// BackendTCP takes TCP everywhere.
	BackendTCP = "tcp"
	// BackendShm takes shared memory, and refuses a job that spans hosts.
	BackendShm = "shm"
)

// local is what a World knows of the ranks on its own host.
type local struct {
	door      *acceptor // nil where this rank shares no memory
	host      string    // identifies the host
	addresses []string  // by rank in the job: the socket's name; "" for ranks that are elsewhere
	ranks     []int     // those that this one shares memory with, itself included, ascending; nil if there are no others
	sharers   []uint64  // a bit for each rank of the job: it shares memory with the first one that listens at its address
	sharing   sharing
}

// hostIdentity returns a name for what this rank's unix sockets can reach.
func hostIdentity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	space, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s", boot, space))
	return hex.EncodeToString(sum[:6]), nil
}

// openLocal opens this rank's door for ranks of its host, and returns what the others must know of it: the host's name and
// the socket's. It returns "" where this rank shares no memory.
func (w *World) openLocal(cred credentials) (string, error) {
	if w.o.Backend == BackendTCP {
		return "", nil
	}
	if w.o.sharing != nil { // a test's
		w.local.host, w.local.sharing = "test", w.o.sharing
		if w.o.hosts != nil {
			w.local.host = fmt.Sprint("test", w.o.hosts[w.Rank()])
		}
		return w.local.host + "/", nil
	}
	address, err := w.listenLocal(cred)
	if err == nil {
		return address, nil
	}
	err = fmt.Errorf("sharing memory with the ranks of this host: %w", err)
	if w.o.Backend == BackendShm {
		return "", err
	}
	w.o.Log.Warn("ranks of this host are reached over TCP", "reason", err)
	return "", nil
}

func (w *World) listenLocal(cred credentials) (string, error) {
	host, err := hostIdentity()
	if err != nil {
		return "", err
	}
	f, err := newMemoryFile(1)
	if err != nil {
		return "", err
	}
	f.close()
	name := "@lockstep-" + rand.Text()[:16]
	listener, err := net.Listen("unix", name)
	if err != nil {
		return "", err
	}
	w.local.host, w.local.sharing = host, &files{world: w}
	cred.secure = false
	w.local.door = &acceptor{
		credentials: cred, self: int32(w.o.Place.Rank), listeners: []net.Listener{listener}, log: w.o.Log, claim: w.claimLocal, serve: w.hand,
	}
	w.local.door.start()
	return host + "/" + name, nil
}

// findLocal learns from the root's table which ranks are on this host, and which are with others on theirs.
func (w *World) findLocal(table []string) error {
	w.findSharers(table)
	if w.o.Backend == BackendTCP {
		return nil
	}
	if table == nil { // nobody shares memory
		table = make([]string, w.Size())
	}
	if len(table) != w.Size() {
		return fmt.Errorf("the root sent %d sockets for %d ranks", len(table), w.Size())
	}
	l := &w.local
	l.addresses = make([]string, len(table))
	for rank, entry := range table {
		host, name, found := strings.Cut(entry, "/")
		switch {
		case found && host == l.host:
			l.addresses[rank] = name
			l.ranks = append(l.ranks, rank)
		case w.o.Backend == BackendShm:
			return &RefusedError{Rank: rank, Reason: fmt.Sprintf("rank %d does not share the memory of rank %d's host, which backend %q asks for; "+
				"use %q", rank, w.Rank(), BackendShm, BackendAuto)}
		}
	}
	if len(l.ranks) < 2 {
		l.ranks = nil
	}
	return nil
}

// findSharers fills in sharers, alike on all ranks: algorithms are chosen by it.
func (w *World) findSharers(table []string) {
	w.local.sharers = make([]uint64, (len(table)+63)/64)
	first := map[string]string{} // the common memory of the first rank at an address
	for rank, entry := range table[:min(len(table), w.Size())] {
		memory, _, found := strings.Cut(entry, "/")
		if !found {
			continue
		}
		address := w.hostName(rank)
		if _, known := first[address]; !known {
			first[address] = memory
		}
		if first[address] == memory {
			w.local.sharers[rank/64] |= 1 << (rank % 64)
		}
	}
}

// shareOnHosts reports whether those of the given ranks that are on one host share memory, on every host.
func (w *World) shareOnHosts(ranks []int) bool {
	for _, rank := range ranks {
		if rank/64 >= len(w.local.sharers) || w.local.sharers[rank/64]>>(rank%64)&1 == 0 {
			return false
		}
	}
	return true
}

// shares reports whether all of the given ranks share memory.
func (w *World) shares(ranks []int) bool {
	return len(ranks) > 1 && !slices.ContainsFunc(ranks, func(r int) bool { return !slices.Contains(w.local.ranks, r) })
}

// claimLocal reserves a connection for an authenticated process of this host.
func (w *World) claimLocal(h hello) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case h.purpose != purposeMemory:
		return errors.New("only ranks that share memory connect here")
	case w.closed:
		return fmt.Errorf("rank %d is leaving the job", w.Rank())
	}
	c := w.connectionLocked(connectionKey{int(h.from), h.group})
	if !c.begin(claimedByPeer) {
		return fmt.Errorf("rank %d is already connected by another process", h.from)
	}
	return nil
}

// meet connects the given ranks of this host to the first of them, for one exchange that all know by its id: the first
// gets a connection to each other rank, in their order, the others get one to the first. late makes the error for a rank
// that does not come.
func (w *World) meet(ctx context.Context, id uint64, ranks []int, late func(rank int) error) (conns []*net.UnixConn, err error) {
	defer func() {
		if err != nil {
			closeAll(conns)
		}
	}()
	if first := ranks[0]; w.Rank() != first {
		conn, err := w.local.door.dial(ctx, w.local.addresses[first], hello{purpose: purposeMemory, from: int32(w.Rank()), to: int32(first), group: id})
		if err != nil {
			if cause := w.causeWithin(graceTime); cause != nil {
				return nil, cause
			}
			return nil, fmt.Errorf("connecting to rank %d: %w", first, err)
		}
		return append(conns, conn.(*net.UnixConn)), nil
	}
	for _, rank := range ranks[1:] {
		select {
		case conn := <-w.connection(connectionKey{rank, id}).conn:
			conns = append(conns, conn.(*net.UnixConn))
		case <-w.done:
			return conns, w.Err()
		case <-w.closing:
			return conns, errors.New("the job was closed")
		case <-ctx.Done():
			return conns, late(rank)
		}
	}
	for _, rank := range ranks[1:] {
		w.forget(connectionKey{rank, id})
	}
	return conns, nil
}

// forget drops the meeting point of a connection that is used once.
func (w *World) forget(key connectionKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.inbound, key)
}

func deadlineOf(ctx context.Context) time.Time {
	deadline, _ := ctx.Deadline()
	return deadline
}

func closeAll(conns []*net.UnixConn) {
	for _, c := range conns {
		c.Close()
	}
}
