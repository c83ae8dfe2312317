"""Compare the files that spmd export writes for MindSpore, and reads from it, with MindSpore itself, bit for bit.

    python tools/check_mindspore.py SPMD MODEL_DIR... [--mindformers DIR]

MODEL_DIR is a Hugging Face directory. For float32, bfloat16 and float16, for .ckpt and safetensors, and for both sets of names:
what spmd export writes is loaded with mindspore.load_checkpoint, and every tensor's bytes are compared with the model's; what
mindspore.save_checkpoint writes (.ckpt also with a checksum, and in slices) becomes a Hugging Face directory again, whose bytes are
compared as well. The names and fused matrices of MindSpore Transformers are those of its own converter where --mindformers
names an unpacked mindformers package (pip download --no-deps mindformers==2.1.0; unzip), else of the formulas below.

Needs: mindspore==2.10 numpy<2 safetensors (Python 3.11).
"""
import argparse, importlib.util, json, os, struct, subprocess, sys, tempfile, types

import numpy as np
import mindspore as ms
from mindspore.train import serialization

DTYPES = {"float32": ms.float32, "bfloat16": ms.bfloat16, "float16": ms.float16}


def raw_tensors(path):
    """Name -> (dtype, shape, bytes), read without any library."""
    with open(path, "rb") as h:
        n = struct.unpack("<Q", h.read(8))[0]
        header = json.loads(h.read(n))
        data = h.read()
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]]) for k, v in header.items()}


def converters(package):
    """The converters of MindSpore Transformers for Qwen3, which cover Llama and Qwen2 without biases."""
    for name in ("mindformers", "mindformers.parallel_core", "mindformers.parallel_core.transformer_config"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["mindformers.parallel_core.transformer_config"].TransformerConfig = object
    spec = importlib.util.spec_from_file_location("convert_op", os.path.join(package, "checkpoint/converter/convert_op.py"))
    ops = importlib.util.module_from_spec(spec)
    sys.modules["convert_op"] = ops
    spec.loader.exec_module(ops)
    text = open(os.path.join(package, "models/qwen3/utils.py")).read()
    text = text[text.index("    weight_converters = ["):]
    scope = {k: getattr(ops, k) for k in ("RenameConvertOp", "ConcatConvertOp", "QKVConvertOp")}
    exec("\n".join(line[4:] for line in text.split("\n")), scope)
    return scope["weight_converters"]


def fuse(weights, config, package):
    """Hugging Face's name -> array becomes MindSpore Transformers' name -> array."""
    n, k = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    d = config.get("head_dim") or config["hidden_size"] // n
    out = {}
    if package:
        for op in converters(package):
            if hasattr(op, "num_query_groups"):
                op.num_attention_heads, op.num_query_groups, op.kv_channels, op.hidden_size = n, k, d, config["hidden_size"]
                op.tensor_model_parallel_size = op.optimizer_parallel_size = 1
            layers = range(config["num_hidden_layers"]) if "{}" in op.hf_names[0] else [None]
            for i in layers:
                names = [x if i is None else x.format(i) for x in op.hf_names]
                if names[0] in weights:
                    made = op.hf_to_mf({x: weights[x] for x in names})
                    out.update({x if i is None else x.format(i): v for x, v in made.items()})
        return out
    for name, w in weights.items():
        for a, b in (("model.embed_tokens.", "embedding.word_embeddings."), ("model.norm.", "decoder.final_layernorm."), ("lm_head.", "output_layer."),
                     ("model.layers.", "decoder.layers."), (".self_attn.o_proj.", ".self_attention.linear_proj."), (".mlp.down_proj.", ".mlp.linear_fc2."),
                     (".self_attn.q_norm.", ".self_attention.q_layernorm."), (".self_attn.k_norm.", ".self_attention.k_layernorm."),
                     (".post_attention_layernorm.", ".pre_mlp_layernorm.")):
            name = name.replace(a, b)
        if ".q_proj." in name:
            q, kk, v = w, *(weights[x] for x in (name.replace("decoder.", "model.").replace(".q_proj.", f".{p}_proj.") for p in "kv"))
            rest = w.shape[1:]
            w = np.concatenate([q.reshape(k, n // k * d, *rest), kk.reshape(k, d, *rest), v.reshape(k, d, *rest)], 1).reshape(-1, *rest)
            name = name.replace(".self_attn.q_proj.", ".self_attention.linear_qkv.")
        elif ".gate_proj." in name:
            w = np.stack([w, weights[name.replace("decoder.", "model.").replace(".gate_proj.", ".up_proj.")]], 1).reshape(-1, *w.shape[1:])
            name = name.replace(".gate_proj.", ".linear_fc1.")
        elif any(p in name for p in (".k_proj.", ".v_proj.", ".up_proj.")):
            continue
        out[name] = w
    return out


def same(what, got, want):
    if sorted(got) != sorted(want):
        sys.exit(f"{what}: {sorted(set(got) ^ set(want))} are in one of the two only")
    for name, (shape, data) in want.items():
        if list(got[name][0]) != list(shape) or got[name][1] != data:
            sys.exit(f"{what}: {name} differs")
    return len(want)


def load(path):
    fmt = "ckpt" if path.endswith("ckpt") else "safetensors"
    loaded = ms.load_checkpoint(path, format=fmt)
    return {k: (list(v.shape), bytes(v.get_bytes()) if v.size else b"") for k, v in loaded.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("spmd"), ap.add_argument("models", nargs="+"), ap.add_argument("--mindformers")
    a = ap.parse_args()
    export = lambda *args: subprocess.run([a.spmd, "export", *args], check=True, stdout=subprocess.DEVNULL)
    tensors = 0
    for model in a.models:
        config = json.load(open(os.path.join(model, "config.json")))
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as d:
                export(model, f"{d}/hf", "--dtype", dtype)
                plain = raw_tensors(f"{d}/hf/model.safetensors")
                want = {k: (s, b) for k, (_, s, b) in plain.items()}
                # Bits as integers, so that fusing cannot change them.
                bits = {k: np.frombuffer(b, np.int32 if dtype == "float32" else np.int16).reshape(s) for k, (_, s, b) in plain.items()}
                has_bias = any(k.endswith(".bias") for k in bits)
                fused = fuse(bits, config, None if has_bias else a.mindformers)
                names = {"huggingface": want, "mindformers": {k: (list(v.shape), v.tobytes()) for k, v in fused.items()}}
                for fmt, file in (("ckpt", "model.ckpt"), ("mindspore", "model.safetensors")):
                    for n, expected in names.items():
                        export(f"{d}/hf", f"{d}/{fmt}-{n}", "--format", fmt, "--names", n)
                        tensors += same(f"{model} {dtype} {fmt} {n}: written here", load(f"{d}/{fmt}-{n}/{file}"), expected)
                        tensors += theirs(d, fmt, n, expected, DTYPES[dtype], model, want, export)
        print(f"{model}: the same")
    print(f"{tensors} tensors compared, all of them bit-equal")


def theirs(d, fmt, names, weights, dtype, model, want, export):
    """Saves with MindSpore, exports with spmd, compares with want."""
    tensor = serialization.Tensor_.convert_bytes_to_tensor
    saved = [{"name": k, "data": ms.Parameter(tensor(b, tuple(s), dtype), name=k)} for k, (s, b) in weights.items()]
    done = 0
    for variant in ("whole", "crc", "slices"):
        if fmt == "mindspore" and variant != "whole":
            continue  # safetensors are not sliced, and MindSpore 2.10 makes no checksum of half-precision ones
        out = f"{d}/theirs-{fmt}-{names}-{variant}"
        os.mkdir(out)
        file = f"{out}/{'x.ckpt' if fmt == 'ckpt' else 'x.safetensors'}"
        serialization.SLICE_SIZE = 4 if variant == "slices" else 512 * 1024
        ms.save_checkpoint(saved, file, format="ckpt" if fmt == "ckpt" else "safetensors", crc_check=variant == "crc", append_dict={"step_num": 7, "epoch_num": 1.0})
        with open(f"{out}/config.json", "w") as h:
            h.write(open(os.path.join(model, "config.json")).read())
        export(out, f"{out}.hf")
        back = {k: (s, b) for k, (_, s, b) in raw_tensors(f"{out}.hf/model.safetensors").items()}
        done += same(f"{model} {dtype} {fmt} {names} {variant}: written there", back, want)
    serialization.SLICE_SIZE = 512 * 1024
    return done


if __name__ == "__main__":
    main()
