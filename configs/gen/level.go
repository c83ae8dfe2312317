package main

import (
	"maps"
	"strings"
)

// A level says how well a model is verified.
type level string

const (
	released    level = "Released"
	validated   level = "Validated"
	preliminary level = "Preliminary"
	untested    level = "Untested"
)

// Steps of a reference curve that a level takes.
const (
	releasedSteps  = 100
	validatedSteps = 20
)

// levelOf returns the level of a run of a family with the given features and number of parameters, and what keeps it from a
// higher one. trained says that the run itself is among the tests.
func levelOf(family string, wanted features, parameters int, trained bool, evidence []*curve) (level, string) {
	covered, known := features{}, false
	for _, c := range evidence {
		if c.steps < validatedSteps {
			continue
		}
		if c.family == family && c.parameters == parameters && c.steps >= releasedSteps && len(wanted.missing(c.features)) == 0 {
			return released, ""
		}
		known = known || c.family == family
		maps.Copy(covered, c.features)
	}
	missing := wanted.missing(covered)
	switch {
	case known && len(missing) == 0:
		return validated, ""
	case !known:
		missing = []string{"model_type " + family}
	}
	why := "without a reference curve: " + strings.Join(missing, ", ")
	if trained {
		return preliminary, why
	}
	return untested, why
}

// recipeLevel returns the level of a recipe, and what keeps it from a higher one.
func recipeLevel(r *recipe, evidence []*curve) (level, string) {
	return levelOf(r.config.Architecture.Family, runFeatures(r.config), r.model.NumParameters(), r.small(), evidence)
}
