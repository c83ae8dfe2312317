package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Selected returns which of the given number of transformer layers recompute.mode applies to. The error names the element of
// recompute.layers that is no layer, nor a range of layers.
func (r Recompute) Selected(layers int) ([]bool, error) {
	selected := make([]bool, layers)
	if r.Layers == nil {
		for i := range selected {
			selected[i] = true
		}
	}
	for _, text := range r.Layers {
		from, to, isRange := strings.Cut(text, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(strings.TrimSpace(from))
		last, err2 := strconv.Atoi(strings.TrimSpace(to))
		if err != nil || err2 != nil {
			return nil, fmt.Errorf("%s is neither a layer nor a range of layers", quote(shorten(text)))
		}
		if first < 0 || first > last || last >= layers {
			return nil, fmt.Errorf("%s is not within the model's %d layers", quote(shorten(text)), layers)
		}
		for i := first; i <= last; i++ {
			selected[i] = true
		}
	}
	return selected, nil
}
