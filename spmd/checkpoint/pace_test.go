package checkpoint

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name   string
		b      Background
		after  time.Duration // since the beginning
		worked time.Duration // of it on the last chunk
		done   int           // bytes of 100
		waited bool          // whether somebody waits for the save
		want   time.Duration
	}{
		{"an eighth of the time", Background{Share: 0.125, Within: time.Hour}, 50 * ms, 2 * ms, 10, false, 14 * ms},
		{"all of the time", Background{Share: 2, Within: time.Hour}, 50 * ms, 2 * ms, 10, false, 0},
		{"no share", Background{Within: time.Hour}, 50 * ms, 2 * ms, 10, false, 0},
		{"as much as is due", Background{Share: 0.125, Within: 600 * ms}, 50 * ms, 2 * ms, 10, false, 10 * ms},
		{"late", Background{Share: 0.125, Within: 400 * ms}, 50 * ms, 2 * ms, 10, false, 0},
		{"waited for", Background{Share: 0.125, Within: time.Hour}, 50 * ms, 2 * ms, 10, true, 0},
	} {
		began := time.Unix(1000, 0)
		now := began.Add(test.after)
		var hurry atomic.Bool
		hurry.Store(test.waited)
		p := pace{Background: test.b, hurry: &hurry, total: 100, began: began, woke: now.Add(-test.worked)}
		if got := p.pause(now, test.done); got != test.want {
			t.Errorf("%s: a rest of %v, want %v", test.name, got, test.want)
		}
	}
}
