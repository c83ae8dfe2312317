package config

// Data is section [data].
type Data struct {
	// `text`: a document per file. `jsonl`: a JSON object per line, or an array of objects in a file, with the text at
	// text_key. `parquet`: the text is in column text_key. `chat`: conversations, as JSON or
	// Parquet, with `messages`, with `conversations` (ShareGPT), or with `instruction`, `input` and `output` (Alpaca); they become
	// text by the model's chat template, and only what the assistant writes has loss. `megatron`: token stores, NAME.bin with
	// NAME.idx. The tokens of jsonl, parquet, chat and, with a tokenizer other than bytes, text are made before the run starts
	// and kept in output_dir/data.
	Format string `toml:"format" values:"text,jsonl,chat,parquet,megatron"`
	// Files, directories (with all below them) and patterns with `*` and `**`, joined in sorted order. megatron: prefixes,
	// the path without .bin, joined in the order given. Relative paths are relative to the working directory; `$GOROOT` at
	// the start of a path is the directory of Go. Required to train or with validation_split, unless blend is set.
	Paths []string `toml:"paths"`
	// Several sets of data in place of paths, each as a table [[data.blend]] with its paths and its weight: samples are taken
	// from them in proportion to the weights, and each has epochs of its own.
	Blend []Blend `toml:"blend"`
	// jsonl: the key of an object that has the text. parquet: the column.
	TextKey string `toml:"text_key"`
	// What made, or makes, the tokens. `bytes`: ids 0-255 are the bytes of UTF-8, 256 ends a document. A directory: its
	// tokenizer.json. text: the default is bytes. jsonl, parquet and chat: the default is model.path, or bytes with
	// [model.config]. megatron: the default is "", not known.
	Tokenizer string `toml:"tokenizer" values:"bytes" or:"a directory with tokenizer.json"`
	// chat: the file of a Jinja template in place of the tokenizer's own. The assistant's parts are those within
	// `{% generation %}`, else what the template writes of the assistant's messages, with the end of the turn.
	ChatTemplate string `toml:"chat_template"`
	// Tokens of a sample that are predicted.
	SequenceLength int `toml:"sequence_length" required:"always" range:"[1,16777216]"`
	// How documents make samples. `concat`: all are joined and cut every sequence_length tokens. `best-fit`: whole documents
	// share a sample, each put where it leaves the least room; they are kept apart by reset_attention_mask and
	// reset_position_ids, which are true by default then. `none`: a document per sample. Room that is left has no loss.
	// chat: the default is best-fit.
	Packing string `toml:"packing" values:"concat,best-fit,none"`
	// What best-fit and none do with a document of more than sequence_length + 1 tokens. `truncate`: the rest is left out.
	// `split`: it becomes several documents. How many it concerns is reported.
	Overlong string `toml:"overlong" values:"truncate,split"`
	// Take samples in a random order, another one each epoch. false: in the order of the files.
	Shuffle bool `toml:"shuffle"`
	// `lockstep`: as shuffle says. `megatron`: sample for sample the order of Megatron-Core's GPTDataset and its blends, with
	// run.seed as its seed, for loss curves that can be compared line by line; paths, and those of each part of a blend,
	// name one set then.
	Order string `toml:"order" values:"lockstep,megatron"`
	// Id of the token that ends a document, and belongs to it. -1: that of the tokenizer, or none.
	EOD int `toml:"eod" range:"[-1,2147483647]"`
	// Let a token attend only to its own document. Needs eod.
	ResetAttentionMask bool `toml:"reset_attention_mask"`
	// Count positions from 0 in each document, as in each sample. Needs eod.
	ResetPositionIDs bool `toml:"reset_position_ids"`
	// Leave positions whose input is eod out of the loss, which is the mean over the others, and out of the tokens that are
	// counted. A step of nothing but eod has loss 0 and no gradient. Needs eod.
	EODMaskLoss bool `toml:"eod_mask_loss"`
	// Data to validate on, as paths; files that are also in paths are left out of training. Excludes validation_split.
	ValidationPaths []string `toml:"validation_paths"`
	// Fraction of the tokens that is held out for validation, at the end of the data or of each part of a blend; of the
	// documents where they are packed whole or order is megatron. Excludes validation_paths.
	ValidationSplit float64 `toml:"validation_split" range:"[0,1)"`
	// Steps from one validation to the next. 0: only at the end of the run.
	ValidationInterval int `toml:"validation_interval" range:"[0,)"`
	// Batches of global_batch_size samples per validation. 0: all of the validation data.
	ValidationBatches int `toml:"validation_batches" range:"[0,)"`
}

// A Blend is a table of data.blend.
type Blend struct {
	Weight float64  `toml:"weight"`
	Paths  []string `toml:"paths"`
}
