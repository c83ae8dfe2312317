package collective

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"lockstep/kernels/device"
)

// TestBlocking mixes both views of a group, on streams that lend themselves to the caller and on ones that do not.
func TestBlocking(t *testing.T) {
	for _, lends := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct stream: %v", lends), func(t *testing.T) {
			j := newJob(t, 3, func(_ *RootOptions, o *Options) {
				o.TimeBlocking = true
				if stream := o.NewStream; lends && stream != nil {
					o.NewStream = func(name string) device.Stream { return directStream{stream(name).(*testStream)} }
				}
			})
			groups := j.groups("data")
			j.all(func(rank int) error {
				g, now := groups[rank], groups[rank].Blocking()
				if now.Blocking() != now {
					return errors.New("the blocking view has another one")
				}
				x := memory(device.BytesOf([]float32{1}))
				g.AllReduce(x, sum32(), device.Event{})
				if e := now.AllReduce(x, sum32(), device.Event{}); e != (device.Event{}) {
					return fmt.Errorf("a blocking call returned event %+v", e)
				}
				if j.worlds[rank].Blocked() <= 0 {
					return errors.New("no time was counted for a blocking call")
				}
				if got := floats(x.Mapped())[0]; got != 9 {
					return fmt.Errorf("two sums over three ranks of 1 are %v, want 9", got)
				}
				if err := g.Barrier(context.Background()); err != nil {
					return err
				}
				compute := newTestStream("compute")
				defer compute.close()
				broken := errors.New("no memory")
				compute.Fail(broken)
				if err := now.AllReduce(x, sum32(), compute.Record()).Synchronize(); !errors.Is(err, broken) {
					return fmt.Errorf("after an event that failed: %v", err)
				}
				if err := g.AllReduce(x, sum32(), device.Event{}).Synchronize(); !errors.Is(err, broken) {
					return fmt.Errorf("the failure did not reach the other view: %v", err)
				}
				return nil
			})
		})
	}
}
