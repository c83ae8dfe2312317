// Package config is the configuration of a run: the TOML schema with its defaults, strict decoding, and every check that
// can be made before a rank starts to work.
//
// A mistake in a configuration should cost seconds, and one attempt. So Load reports all problems at once, each with its
// line, what is wrong and what to write instead, and it writes nothing. It works in four stages:
//
//	document.go   the text becomes a tree of values, and each key gets its line; overrides from the command line
//	decode.go     the tree is matched against the schema, the structs in config.go: unknown names, types, legal values
//	checks.go     what follows from several keys: batch sizes, ranks, steps
//	checks_*.go   what follows from the world outside: the model's config.json, the data, the output directory
//
// A check runs when all values that it needs are good, so one mistake neither hides another nor is reported twice.
//
// The reference page docs/config.md is made from the comments and tags in config.go.
package config

//go:generate go test -run TestReferencePage -update .
