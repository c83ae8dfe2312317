package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Recompute is section [recompute].
type Recompute struct {
	// `none`: all is kept but norms and activations, which cost next to nothing. `selective`: of each layer its input, what
	// attention leaves, and the sum of the two are kept; the projections to queries, keys and values, and to gate and
	// up, are computed again. `full`: only each layer's input is kept. With hidden size h, intermediate size i, and q
	// and k elements of queries and of keys, a layer keeps 2h+2q+2k+2i elements per token with none (q+k more with
	// norms of queries and keys), 2h+q with selective, h with full; what is computed again takes memory for one layer. Both
	// make the layers' products about a quarter more, full a little more than selective. The bits of all results are those of
	// none.
	Mode string `toml:"mode" values:"none,selective,full"`
	// The transformer layers that mode applies to, as numbers from 0 and ranges: `["0-5", "11"]`. The others keep
	// everything. Default: all.
	Layers []string `toml:"layers"`
}

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
