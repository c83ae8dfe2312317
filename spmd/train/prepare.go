package train

import (
	"context"
	"errors"

	"lockstep/spmd/config"
	"lockstep/spmd/data"
)

// PrepareData makes what the data sets of a run need and that takes long, see data.Prepare. It belongs before the rank joins
// its job. Data that cannot be used is a *ConfigurationError.
func PrepareData(ctx context.Context, c *config.Config, load config.LoadOptions, progress func(data.Progress)) error {
	prepare := func(key string, o data.Options) error {
		err := data.Prepare(ctx, o, progress)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, data.ErrTooFewTokens) {
			key = "data.sequence_length"
		}
		return &ConfigurationError{Key: key, Err: err}
	}
	if c.Run.Mode != "evaluate" {
		if err := prepare("data.paths", c.TrainingData(load)); err != nil {
			return err
		}
	}
	if o, ok := c.ValidationData(load); ok {
		return prepare("data.validation_paths", o)
	}
	return nil
}
