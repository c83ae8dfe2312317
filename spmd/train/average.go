package train

import "errors"

// averageWeights moves the average towards the weights of a step.
func (t *Trainer) averageWeights() {
	if a := t.placed.average; a != nil {
		a.Update(t.Device, t.Stream, t.placed.weights)
	}
}

// onAverage runs f with the model bound to the averaged weights.
func (t *Trainer) onAverage(f func() error) error {
	if err := t.Model.Bind(t.placed.average.Weights, t.placed.frozen); err != nil {
		return err
	}
	return errors.Join(f(), t.Model.Bind(t.placed.weights, t.placed.frozen))
}
