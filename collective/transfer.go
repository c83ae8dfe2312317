package collective

import "fmt"

// Transfers between pairs of members: all sends are started, then everything is received, and whoever waits moves what is
// queued for others. Messages between two members are numbered in each direction, apart from the operations of the group,
// which the other members count too.
//
// Steps: 1. Bytes sent: those of the buffers.

// A transferKey names one direction between this member and another.
type transferKey struct {
	peer    int
	receive bool
}

func (t *team) transfer(w *work) error {
	for i := range w.transfers {
		x := &w.transfers[i]
		if x.Receive {
			continue
		}
		l, err := t.link(x.Peer)
		if err != nil {
			return err
		}
		l.send(t.transferHeader(w, x), x.Buf.Mapped())
	}
	for i := range w.transfers {
		x := &w.transfers[i]
		if !x.Receive {
			continue
		}
		l, err := t.link(x.Peer)
		if err != nil {
			return err
		}
		if _, err := l.receive(t.transferHeader(w, x)); err != nil {
			return err
		}
		if err := l.read(x.Buf.Mapped()); err != nil {
			return err
		}
	}
	for i := range w.transfers {
		if w.transfers[i].Receive {
			continue
		}
		if err := t.flush(w.transfers[i].Peer); err != nil {
			return err
		}
	}
	return nil
}

func (t *team) transferHeader(w *work, x *Transfer) header {
	key := transferKey{x.Peer, x.Receive}
	t.g.transfers[key]++
	h := w.header(0, x.Buf.Bytes)
	h.sequence = t.g.transfers[key]
	return h
}

// transferName names a work that transfers: "send to member 3 of group pipeline (1.2 MB)".
func (w *work) transferName() string {
	if len(w.transfers) != 1 {
		return fmt.Sprintf("%d sends and receives of group %s", len(w.transfers), w.group.name)
	}
	x, what := w.transfers[0], "send to"
	if x.Receive {
		what = "receive from"
	}
	return fmt.Sprintf("%s member %d of group %s (%s)", what, x.Peer, w.group.name, byteSize(x.Buf.Bytes))
}
