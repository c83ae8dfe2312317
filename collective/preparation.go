package collective

import (
	"context"
	"time"
)

// Ranks may have to prepare before they can join: on hosts that share no files, each its own data, one for an hour and another
// for a minute. A rank that does so has reached the root before, and says again and again that it is at work; as long as its
// word is not older than the time that ranks have to join, the others wait for it.

// preparingEvery is how often a rank that prepares says so.
const preparingEvery = 5 * time.Second

// prepare runs Options.Prepare, if there is one, and keeps the root informed. Its error is returned as it is.
func (w *World) prepare(ctx context.Context) error {
	if w.o.Prepare == nil {
		return nil
	}
	if w.control == nil {
		return w.o.Prepare(ctx)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(min(preparingEvery, max(w.o.Timeout/10, time.Millisecond)))
		defer tick.Stop()
		for {
			// What cannot be said is found out at the join.
			_ = w.control.send(message{Kind: kindPreparing})
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	err := w.o.Prepare(ctx)
	close(stop)
	<-stopped
	if err != nil {
		_ = w.control.send(message{Kind: kindAbort, Cause: err.Error()})
	}
	return err
}

// missing returns the ranks that have not joined and do not say that they prepare, and whether there are some that do. r.mu is
// held.
func (r *Root) missing() (missing []int, preparing bool) {
	for rank := range r.members {
		switch m := &r.members[rank]; {
		case m.state == claimed && time.Since(m.prepares) < r.o.Timeout:
			preparing = true
		case m.state == absent || m.state == claimed:
			missing = append(missing, rank)
		}
	}
	return missing, preparing
}
