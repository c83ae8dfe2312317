package collective

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestPreparation lets a rank prepare for longer than ranks have to join: the other waits for it.
func TestPreparation(t *testing.T) {
	const limit = 500 * time.Millisecond
	j := newRoot(t, 2, func(r *RootOptions, _ *Options) { r.Timeout = limit })
	j.all(func(rank int) (err error) {
		o := j.options(rank)
		if rank == 1 {
			o.Timeout = limit
			o.Prepare = func(context.Context) error { time.Sleep(5 * limit / 2); return nil }
		}
		j.worlds[rank], err = Join(context.Background(), o)
		return err
	})
	j.all(func(rank int) error { return j.worlds[rank].Close() })
}

// TestFailedPreparation lets a rank find that it cannot join: it gets its own error back, and the other learns why.
func TestFailedPreparation(t *testing.T) {
	for name, tree := range map[string]bool{"at the root": false, "behind a relay": true} {
		t.Run(name, func(t *testing.T) {
			failed := errors.New("no space left for the data")
			j := newRoot(t, 2, func(r *RootOptions, _ *Options) {
				if tree {
					r.Hosts, r.Outside = []Host{{Name: "other", Ranks: []int{1}}}, "127.0.0.1"
				}
			})
			at := j.root.Addr()
			if tree {
				r, err := NewRelay(RelayOptions{Size: 2, Hosts: 1, Ranks: []int{1}, Job: "test", Secret: testSecret, Log: j.logger})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if err := r.Connect(context.Background(), j.root.Outside()); err != nil {
					t.Fatal(err)
				}
				at = r.Addr()
			}
			errs := j.each(func(rank int) error {
				o := j.options(rank)
				if rank == 1 {
					o.Place.Rendezvous = at
					o.Prepare = func(context.Context) error { return failed }
				}
				_, err := Join(context.Background(), o)
				return err
			})
			// Rank 0 may come after the failure, and is then refused with the same cause.
			if errs[0] == nil || !strings.Contains(errs[0].Error(), "rank 1: "+failed.Error()) && !errors.As(errs[0], new(*RankLostError)) {
				t.Errorf("rank 0: %v", errs[0])
			}
			if errs[1] == nil || errs[1].Error() != failed.Error() {
				t.Errorf("rank 1: %v", errs[1])
			}
		})
	}
}
