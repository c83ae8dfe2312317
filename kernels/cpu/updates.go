package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// The operators in this file work on whole tensors as flat arrays, cut into parts of updateElements.

// updateElements is how many elements one part has: they stay in the fastest cache from one loop to the next.
const updateElements = 4 << 10

// overElements runs b over the elements of t, cut by updateElements.
func (d *Device) overElements(c *call, t *kernels.Tensor, b body) {
	d.parallel(c, partsOf(t.Len(), updateElements), b)
}

// overBlocks calls f with the bounds of each part in [from, to) of an array of n elements.
func overBlocks(n, from, to int, f func(at, end int)) {
	for i := from; i < to; i++ {
		f(min(i*updateElements, n), min((i+1)*updateElements, n))
	}
}

// lerp returns the point between a and b, starting from the nearer end as torch.lerp does.
func lerp(a, b, weight float32) float32 {
	if weight < 0.5 {
		return a + float32(weight*(b-a))
	}
	return b - float32((b-a)*(1-weight))
}

// Lerp computes y += weight * (x - y). The difference comes first: with weight * x + (1 - weight) * y, the two factors'
// rounding would add up over the steps of a slow average.
func (d *Device) Lerp(s device.Stream, y, x kernels.Tensor, weight float64) {
	c := call{name: "Lerp", run: runLerp}
	c.operands(1, y, x)
	c.f[0] = weight
	d.launch(s, kernels.CheckLerp(y, x), c)
}

func runLerp(d *Device, c *call) error {
	d.overElements(c, &c.args[0], lerpElements)
	return nil
}

func lerpElements(d *Device, c *call, w *worker, from, to int) {
	ys, xs := f32(c.args[0]), f32(c.args[1])
	overBlocks(len(ys), from, to, func(at, end int) {
		difference := w.scratch[:end-at]
		copy(difference, xs[at:end])
		d.set.axpy(difference, ys[at:end], -1)
		d.set.axpy(ys[at:end], difference, float32(c.f[0]))
	})
}

// AddScaled computes y = alpha * a + beta * b.
func (d *Device) AddScaled(s device.Stream, y, a, b kernels.Tensor, alpha, beta float64) {
	c := call{name: "AddScaled", run: runAddScaled}
	c.operands(1, y, a, b)
	c.f[0], c.f[1] = alpha, beta
	d.launch(s, kernels.CheckAddScaled(y, a, b), c)
}

func runAddScaled(d *Device, c *call) error {
	d.overElements(c, &c.args[0], addScaledElements)
	return nil
}

func addScaledElements(d *Device, c *call, _ *worker, from, to int) {
	ys, as := f32(c.args[0]), f32(c.args[1])
	var bs []float32
	if b := c.args[2]; !b.IsZero() {
		bs = f32(b)
	}
	overBlocks(len(ys), from, to, func(at, end int) {
		d.set.scale(ys[at:end], as[at:end], float32(c.f[0]))
		if bs != nil {
			d.set.axpy(ys[at:end], bs[at:end], float32(c.f[1]))
		}
	})
}

// Normalize computes y = x / max(norm, eps).
func (d *Device) Normalize(s device.Stream, y, x, sums kernels.Tensor, eps float64) {
	c := call{name: "Normalize", run: runNormalize}
	c.operands(1, y, x, sums)
	c.f[0] = eps
	d.launch(s, kernels.CheckNormalize(y, x, sums), c)
}

func runNormalize(d *Device, c *call) error {
	c.f[1] = 1 / max(math.Sqrt(total(c.args[2])), c.f[0])
	d.overElements(c, &c.args[0], normalizeElements)
	return nil
}

func normalizeElements(d *Device, c *call, _ *worker, from, to int) {
	ys, xs := f32(c.args[0]), f32(c.args[1])
	overBlocks(len(ys), from, to, func(at, end int) { d.set.scale(ys[at:end], xs[at:end], float32(c.f[1])) })
}

// total returns the sum of block sums, in their order.
func total(sums kernels.Tensor) float64 {
	t := 0.0
	for _, s := range f64(sums) {
		t += s
	}
	return t
}

// ApplyUpdate computes p = decay * p - rate * size * u.
func (d *Device) ApplyUpdate(s device.Stream, p, u, size, clip kernels.Tensor, decay, rate float64) {
	c := call{name: "ApplyUpdate", run: runApplyUpdate}
	c.operands(1, p, u, size, clip)
	c.f[0], c.f[1] = decay, rate
	d.launch(s, kernels.CheckApplyUpdate(p, u, size, clip), c)
}

func runApplyUpdate(d *Device, c *call) error {
	if f64(c.args[3])[2] == 0 {
		return nil
	}
	if size := c.args[2]; !size.IsZero() {
		c.f[1] *= f64(size)[0]
	}
	d.overElements(c, &c.args[0], applyElements)
	return nil
}

func applyElements(d *Device, c *call, _ *worker, from, to int) {
	ps, us := f32(c.args[0]), f32(c.args[1])
	overBlocks(len(ps), from, to, func(at, end int) {
		if c.f[0] != 1 {
			d.set.scale(ps[at:end], ps[at:end], float32(c.f[0]))
		}
		d.set.axpy(ps[at:end], us[at:end], float32(-c.f[1]))
	})
}

// MuonMomentum moves m towards the gradient and computes the update, in the order of roundings of torch.optim.Muon. The method
// is that of K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024.
func (d *Device) MuonMomentum(s device.Stream, u, m, g, clip kernels.Tensor, o kernels.MuonOptions) {
	c := call{name: "MuonMomentum", run: runMuonMomentum}
	c.operands(2, u, m, g, clip)
	c.f[0], c.flag[0] = o.Momentum, o.Nesterov
	d.launch(s, kernels.CheckMuonMomentum(u, m, g, clip), c)
}

func runMuonMomentum(d *Device, c *call) error {
	if f64(c.args[3])[2] == 0 {
		return nil
	}
	d.overElements(c, &c.args[0], muonMomentumElements)
	return nil
}

func muonMomentumElements(_ *Device, c *call, _ *worker, from, to int) {
	us, ms, gs, factor := f32(c.args[0]), f32(c.args[1]), f32(c.args[2]), float32(f64(c.args[3])[1])
	momentum, weight := float32(c.f[0]), float32(1-c.f[0])
	overBlocks(len(us), from, to, func(at, end int) {
		u, m, g := us[at:end], ms[at:end], gs[at:end]
		m, g = m[:len(u)], g[:len(u)]
		for i := range u {
			gi := float32(g[i] * factor)
			m[i] = lerp(m[i], gi, weight)
			u[i] = m[i]
			if c.flag[0] {
				u[i] = lerp(gi, m[i], momentum)
			}
		}
	})
}
