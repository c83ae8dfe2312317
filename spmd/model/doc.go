// Package model builds language models from Hugging Face configurations and runs them, forward and backward.
//
// A model is a stack of layers: an embedding, transformer blocks, and an output head with its loss. A Layer holds its
// weights and nothing else. What its forward pass saves for its backward pass goes into a Record, of which there is one per
// micro batch in flight; the backward pass is written by hand, and the gradients of inputs and of weights are separate
// calls, so that a schedule may run them apart. Layers are written once, against the operators of package kernels.
//
// The files, in reading order: config.go and families.go (config.json to Config), parameter.go (weights and where they
// lie), layer.go (the Layer interface), embedding.go, block.go, head.go (the three layers), stack.go (a model and its
// chunks), touched.go and gradients.go (the gradients of a step, of the embedding's table as rows), weights.go (loading and
// random initialisation), decode.go (generation, with a cache of keys and values). How ranks share samples is in split.go, core.go,
// ring.go and ulysses.go.
//
// In comments B is the batch, T the sequence length, H the hidden size, V the vocabulary, N and K the numbers of query and
// key-value heads, D a head's dimension, I the feed-forward width.
package model
