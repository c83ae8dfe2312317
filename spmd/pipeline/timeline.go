package pipeline

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// A Timeline draws what the ranks of a pipeline do in a step, as a Report says.
type Timeline struct {
	Schedule Schedule
	Report   Report
}

// textWidth bounds the lines of Text, in columns.
const textWidth = 2000

// Text draws a line for each rank: its actions, such as F3, a forward pass of micro batch 3, or 5F3 through chunk 5 where ranks have
// several chunks, as long as they take, and nothing where it idles. Two that run together are joined by +.
func (t Timeline) Text(w io.Writer) error {
	scale := t.scale()
	for r, list := range t.Schedule {
		var line strings.Builder
		fmt.Fprintf(&line, "rank %-3d|", r)
		at := 0
		for i := 0; i < len(list); i++ {
			label, run := t.label(r, list[i]), t.Report.Times[r][i]
			if list[i].Overlapped && i+1 < len(list) {
				i++
				label += "+" + t.label(r, list[i])
			}
			from, to := int(math.Round(run.From*scale)), int(math.Round(run.To*scale))
			line.WriteString(strings.Repeat(" ", max(0, from-at)))
			line.WriteString(cell(label, to-from))
			at = max(at, to)
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// scale returns how many columns a unit of time takes: enough for the longest label in the shortest action, if the line is not too long
// then.
func (t Timeline) scale() float64 {
	shortest, longest := math.Inf(1), 0
	for r, list := range t.Schedule {
		for i, a := range list {
			run := t.Report.Times[r][i]
			shortest, longest = min(shortest, run.To-run.From), max(longest, len(t.label(r, a)))
		}
	}
	return min(float64(longest+1)/shortest, textWidth/t.Report.Time)
}

// label names an action within its rank.
func (t Timeline) label(rank int, a Action) string {
	if len(t.Schedule.Chunks(rank)) > 1 {
		return a.String()
	}
	return fmt.Sprintf("%v%d", a.Kind, a.MicroBatch)
}

// cell is a label with a bar of dashes behind it, in width columns.
func cell(label string, width int) string {
	switch {
	case width <= 0:
		return ""
	case len(label) >= width:
		return label[:width-1] + "|"
	}
	return label + strings.Repeat("-", width-len(label)-1) + "|"
}

// The SVG's measures, in pixels.
const (
	rowHeight, rowGap, leftMargin, topMargin = 26, 6, 64, 44
	svgWidth                                 = 1600.0
)

// colours of the kinds, for each chunk of a rank another shade.
var colours = map[Kind][]string{
	Forward:        {"#9ec9f5", "#5b9bd5", "#2f6ea5"},
	Backward:       {"#a8dba8", "#6fbf73", "#3f8f46"},
	BackwardInput:  {"#ffe08a", "#f5c242", "#c99a1c"},
	BackwardWeight: {"#f4b3a0", "#e58368", "#b9573d"},
}

// SVG draws the same as a picture.
func (t Timeline) SVG(w io.Writer, title string) error {
	var b strings.Builder
	height := topMargin + len(t.Schedule)*(rowHeight+rowGap) + 34
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", int(svgWidth)+leftMargin+12, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="18" font-size="14">%s</text>`+"\n", leftMargin, escape(title))
	fmt.Fprintf(&b, `<text x="%d" y="34" fill="#555">bubble %.1f %%</text>`+"\n", leftMargin, 100*t.Report.Bubble)
	for r := range t.Schedule {
		y := topMargin + r*(rowHeight+rowGap)
		fmt.Fprintf(&b, `<text x="8" y="%d">rank %d</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="#f2f2f2"/>`+"\n",
			y+rowHeight/2+4, r, leftMargin, y, svgWidth, rowHeight)
		t.drawRank(&b, r, y)
	}
	t.drawLegend(&b, height-12)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// drawRank draws the actions of a rank, those that run together one over the other.
func (t Timeline) drawRank(b *strings.Builder, rank, y int) {
	scale, chunks := svgWidth/t.Report.Time, t.Schedule.Chunks(rank)
	list := t.Schedule[rank]
	for i, a := range list {
		run := t.Report.Times[rank][i]
		top, tall := y, rowHeight
		if second := i > 0 && list[i-1].Overlapped; a.Overlapped || second {
			tall /= 2
			if second {
				top += tall
			}
		}
		shades := colours[a.Kind]
		shade := shades[min(slices.Index(chunks, a.Chunk), len(shades)-1)]
		x, width := leftMargin+run.From*scale, (run.To-run.From)*scale
		fmt.Fprintf(b, `<rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s" stroke="white" stroke-width="0.6"><title>chunk %d, %s, micro batch %d</title></rect>`,
			x, top, width, tall, shade, a.Chunk, kindNames[a.Kind], a.MicroBatch)
		if label := fmt.Sprint(a.MicroBatch); width >= float64(6*len(label)+2) {
			fmt.Fprintf(b, `<text x="%.2f" y="%d" text-anchor="middle">%s</text>`, x+width/2, top+tall/2+4, label)
		}
		b.WriteByte('\n')
	}
}

// kindNames are the kinds in words.
var kindNames = map[Kind]string{Forward: "forward", Backward: "backward", BackwardInput: "gradient of the input", BackwardWeight: "gradient of the weights"}

// drawLegend says what the colours of the kinds that there are mean.
func (t Timeline) drawLegend(b *strings.Builder, y int) {
	x := leftMargin
	for k := Forward; k <= BackwardWeight; k++ {
		if !slices.ContainsFunc(t.Schedule, func(list []Action) bool {
			return slices.ContainsFunc(list, func(a Action) bool { return a.Kind == k })
		}) {
			continue
		}
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="14" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", x, y-10, colours[k][0], x+20, y, kindNames[k])
		x += 44 + 7*len(kindNames[k])
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#555">numbers are micro batches; darker shades are chunks further along the model</text>`+"\n", x, y)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
