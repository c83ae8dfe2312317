package cpu

import (
	"math"

	"lockstep/kernels"
	"lockstep/kernels/device"
)

// SquaredNorm computes the sum of squares of each block of kernels.SquaredNormBlock elements.
func (d *Device) SquaredNorm(s device.Stream, sums, x kernels.Tensor) {
	c := call{name: "SquaredNorm", run: runSquaredNorm}
	c.operands(1, sums, x)
	d.launch(s, kernels.CheckSquaredNorm(sums, x), c)
}

// normBlocks is how many block sums one part computes.
const normBlocks = 4

func runSquaredNorm(d *Device, c *call) error {
	d.parallel(c, partsOf(c.args[0].Len(), normBlocks), squaredNormBlocks)
	return nil
}

func squaredNormBlocks(d *Device, c *call, _ *worker, from, to int) {
	sums, x := f64(c.args[0]), f32(c.args[1])
	for i := from * normBlocks; i < min(to*normBlocks, len(sums)); i++ {
		at := i * kernels.SquaredNormBlock
		sums[i] = d.set.sumSquares(x[at:min(at+kernels.SquaredNormBlock, len(x))])
	}
}

// AdamW updates p, m and v with the gradient g times clip's factor, in the order of roundings of torch.optim.AdamW's
// single-tensor path on float32: constants are computed in float64 and rounded once. The method is that of I. Loshchilov
// and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
func (d *Device) AdamW(s device.Stream, p, m, v, g, clip kernels.Tensor, o kernels.AdamWOptions) {
	c := call{name: "AdamW", run: runAdamW}
	c.operands(3, p, m, v, g, clip)
	c.f = [6]float64{o.LR, o.Beta1, o.Beta2, o.Eps, o.WeightDecay, float64(o.Step)}
	d.launch(s, kernels.CheckAdamW(p, m, v, g, clip, o), c)
}

// adamWElements is how many elements one part updates.
const adamWElements = 8 << 10

func runAdamW(d *Device, c *call) error {
	if f64(c.args[4])[2] == 0 {
		return nil
	}
	d.parallel(c, partsOf(c.args[0].Len(), adamWElements), adamWBlocks)
	return nil
}

func adamWBlocks(d *Device, c *call, _ *worker, from, to int) {
	p, m, v, g := f32(c.args[0]), f32(c.args[1]), f32(c.args[2]), f32(c.args[3])
	at, end := min(from*adamWElements, len(p)), min(to*adamWElements, len(p))
	k := adamWConstants(c.f, f64(c.args[4])[1])
	k.update(d.set, p[at:end], m[at:end], v[at:end], g[at:end])
}

// adamW holds one step's constants.
type adamW struct {
	clip, decay     float32 // g *= clip, p *= decay
	weight1         float32 // m moves this part of the way to g: 1 - beta1
	beta2, weight2  float32 // v = beta2*v + weight2*g*g: weight2 is 1 - beta2
	correction, eps float32 // denominator = sqrt(v)/correction + eps
	minusStepSize   float32 // p += minusStepSize * m / denominator
}

// adamWConstants rounds what AdamWOptions, in the order of its fields, and the clip factor come to in float64.
func adamWConstants(o [6]float64, clip float64) adamW {
	lr, beta1, beta2, eps, decay, step := o[0], o[1], o[2], o[3], o[4], o[5]
	return adamW{
		clip: float32(clip), decay: float32(1 - float64(lr*decay)),
		weight1: float32(1 - beta1),
		beta2:   float32(beta2), weight2: float32(1 - beta2),
		correction: float32(math.Sqrt(1 - math.Pow(beta2, step))), eps: float32(eps),
		minusStepSize: float32(-lr / (1 - math.Pow(beta1, step))),
	}
}

// update has torch.lerp start from the nearer end: from m, or in the rare case of beta1 <= 1/2 from g.
func (k *adamW) update(set *kernelSet, p, m, v, g []float32) {
	update := set.adamW
	if k.weight1 >= 0.5 {
		update = adamWFromGradient
	}
	update(p, m, v, g, k.clip, k.decay, k.weight1, k.beta2, k.weight2, k.correction, k.eps, k.minusStepSize)
}

// adamWGeneric is kernelSet.adamW.
func adamWGeneric(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32) {
	m, v, g = m[:len(p)], v[:len(p)], g[:len(p)]
	for i := range p {
		gi := float32(g[i] * clip)
		m[i] += float32(weight1 * (gi - m[i]))
		v[i] = float32(beta2*v[i]) + float32(float32(weight2*gi)*gi)
		denominator := float32(math.Sqrt(float64(v[i])))/correction + eps
		p[i] = float32(p[i]*decay) + float32(minusStepSize*m[i])/denominator
	}
}

// adamWFromGradient is adamWGeneric with m on its way from g: m = g - (g - m) * (1 - weight1).
func adamWFromGradient(p, m, v, g []float32, clip, decay, weight1, beta2, weight2, correction, eps, minusStepSize float32) {
	m, v, g = m[:len(p)], v[:len(p)], g[:len(p)]
	for i := range p {
		gi := float32(g[i] * clip)
		m[i] = gi - float32((gi-m[i])*(1-weight1))
		v[i] = float32(beta2*v[i]) + float32(float32(weight2*gi)*gi)
		denominator := float32(math.Sqrt(float64(v[i])))/correction + eps
		p[i] = float32(p[i]*decay) + float32(minusStepSize*m[i])/denominator
	}
}
