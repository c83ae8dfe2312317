package mindspore

import (
	"fmt"
	"strings"
)

// MindSpore Transformers 2 calls the parameters of Llama and Qwen as Megatron-Core does. renames has both names of what is
// the same in both; the part of the name that both share is left out.
var renames = []struct{ huggingFace, transformers string }{
	{"model.embed_tokens.", "embedding.word_embeddings."},
	{"model.norm.", "decoder.final_layernorm."},
	{"lm_head.", "output_layer."},
	{"model.layers.", "decoder.layers."},
	{".self_attn.q_proj.", ".self_attention.linear_q."},
	{".self_attn.k_proj.", ".self_attention.linear_k."},
	{".self_attn.v_proj.", ".self_attention.linear_v."},
	{".self_attn.o_proj.", ".self_attention.linear_proj."},
	{".self_attn.q_norm.", ".self_attention.q_layernorm."},
	{".self_attn.k_norm.", ".self_attention.k_layernorm."},
	{".mlp.gate_proj.", ".mlp.gating."},
	{".mlp.up_proj.", ".mlp.hidden."},
	{".mlp.down_proj.", ".mlp.linear_fc2."},
	{".post_attention_layernorm.", ".pre_mlp_layernorm."},
}

// A Fusion is a tensor of MindSpore Transformers that holds the rows of several tensors of Hugging Face's, in its default
// layouts: attention's projections head group by head group (use_contiguous_weight_layout_attention = False), gate and up row
// by row (use_interleaved_weight_layout_mlp = True).
type Fusion struct {
	name  string   // the part that stands for it in MindSpore Transformers' name
	parts []string // and in Hugging Face's names
}

var fusions = []*Fusion{
	{".self_attention.linear_qkv.", []string{".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."}},
	{".mlp.linear_fc1.", []string{".mlp.gate_proj.", ".mlp.up_proj."}},
}

// Heads is how attention's projections are cut: the number of heads, of those for keys and values, and the rows of each.
type Heads struct{ Attention, KeyValue, Dim int }

// A Block is a run of rows of one of the tensors that a Fusion holds: rows [From, To) of the one that Part counts.
type Block struct{ Part, From, To int }

// Blocks returns where the given number of rows come from, in their order.
func (f *Fusion) Blocks(rows int, h Heads) ([]Block, error) {
	var blocks []Block
	if len(f.parts) == 2 {
		if rows%2 != 0 {
			return nil, fmt.Errorf("%d rows are not those of two matrices", rows)
		}
		for i := range rows / 2 {
			blocks = append(blocks, Block{0, i, i + 1}, Block{1, i, i + 1})
		}
		return blocks, nil
	}
	if h.KeyValue < 1 || h.Dim < 1 || h.Attention < h.KeyValue || h.Attention%h.KeyValue != 0 || rows != (h.Attention+2*h.KeyValue)*h.Dim {
		return nil, fmt.Errorf("%d rows are not those of %d heads and 2 x %d key-value heads of %d", rows, h.Attention, h.KeyValue, h.Dim)
	}
	group := h.Attention / h.KeyValue * h.Dim
	for g := range h.KeyValue {
		blocks = append(blocks, Block{0, g * group, (g + 1) * group}, Block{1, g * h.Dim, (g + 1) * h.Dim}, Block{2, g * h.Dim, (g + 1) * h.Dim})
	}
	return blocks, nil
}

// IsTransformersName reports whether name is one of MindSpore Transformers'.
func IsTransformersName(name string) bool {
	return strings.HasPrefix(name, "decoder.") || strings.HasPrefix(name, "embedding.word_embeddings.") || strings.HasPrefix(name, "output_layer.")
}

// HuggingFaceNames returns what a tensor of MindSpore Transformers is in a Hugging Face model: one tensor, or the parts of the
// fusion.
func HuggingFaceNames(name string) (names []string, fusion *Fusion) {
	for _, f := range fusions {
		if !strings.Contains(name, f.name) {
			continue
		}
		for _, part := range f.parts {
			names = append(names, rename(strings.Replace(name, f.name, part, 1), false))
		}
		return names, f
	}
	return []string{rename(name, false)}, nil
}

// TransformersName returns MindSpore Transformers' name of a tensor of a Hugging Face model. Where it holds more than that
// one, fusion is not nil and parts has the names of all.
func TransformersName(name string) (fused string, parts []string, fusion *Fusion) {
	for _, f := range fusions {
		for _, part := range f.parts {
			if strings.Contains(name, part) {
				fused = rename(strings.Replace(name, part, f.name, 1), true)
				parts, fusion = HuggingFaceNames(fused)
				return fused, parts, fusion
			}
		}
	}
	return rename(name, true), nil, nil
}

// rename replaces the parts of a name.
func rename(name string, toTransformers bool) string {
	for _, r := range renames {
		from, to := r.transformers, r.huggingFace
		if toTransformers {
			from, to = to, from
		}
		if strings.HasPrefix(from, ".") || strings.HasPrefix(name, from) {
			name = strings.Replace(name, from, to, 1)
		}
	}
	return name
}
