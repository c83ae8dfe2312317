package pipeline

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

// timelineOf simulates a schedule with passes of one unit.
func timelineOf(t *testing.T, s Schedule, microBatches int) Timeline {
	t.Helper()
	r, err := Simulate(s, s.NumChunks(), microBatches, UnitCosts(s.NumChunks()))
	if err != nil {
		t.Fatal(err)
	}
	return Timeline{s, r}
}

func TestTimelineText(t *testing.T) {
	for _, c := range []struct {
		s            Schedule
		microBatches int
		want         string
	}{
		{oneFOneB(Shape{Ranks: 2, Virtual: 1, MicroBatches: 3}), 3, `
rank 0  |F0|F1|      B0---|F2|B1---|   B2---|
rank 1  |   F0|B0---|F1|B1---|F2|B2---|
`},
		{Schedule{{{Forward, 0, 0, false}, {Forward, 0, 1, false}, {Forward, 1, 0, true}, {Backward, 0, 1, false},
			{Forward, 1, 1, true}, {Backward, 0, 0, false}, {Backward, 1, 1, false}, {Backward, 1, 0, false}}}, 2, `
rank 0  |0F0|1F0|0F1+1B0----|1F1+0B0----|1B1----|0B1----|
`},
	} {
		var b strings.Builder
		if err := timelineOf(t, c.s, c.microBatches).Text(&b); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + b.String(); got != c.want {
			t.Errorf("got%s\nwant%s", got, c.want)
		}
	}
}

// TestTimelineSVG checks that the picture is well-formed, and has a rectangle with a title for each action.
func TestTimelineSVG(t *testing.T) {
	line := timelineOf(t, dualPipeV(Shape{Ranks: 3, Virtual: 2, MicroBatches: 7}), 7)
	var b strings.Builder
	if err := line.SVG(&b, "a < b & c"); err != nil {
		t.Fatal(err)
	}
	titles := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
			titles++
		}
	}
	actions := 0
	for _, list := range line.Schedule {
		actions += len(list)
	}
	if titles != actions {
		t.Errorf("%d actions are drawn, there are %d", titles, actions)
	}
}
