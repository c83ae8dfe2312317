package train

import "errors"

// averageWeights moves the average towards the weights of a step.
func (t *Trainer) averageWeights() {
	if a := t.placed.average; a != nil {
		a.Update(t.Device, t.Stream)
	}
}

// onAverage runs f with the averaged weights in the place of the weights.
func (t *Trainer) onAverage(f func() error) error {
	t.swapAverage()
	err := f()
	t.swapAverage()
	return errors.Join(err, t.Stream.Synchronize())
}

// swapAverage has the weights and their average change places.
func (t *Trainer) swapAverage() {
	t.exchange.settle()
	t.placed.average.Swap(t.Device, t.Stream)
	t.exchange.share()
}
