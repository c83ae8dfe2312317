#!/usr/bin/env python3
"""Compare the memory that ranks take with what was planned for them, in real runs of every kind of layout.

    python tools/compare_memory.py [--only zero,pipeline,...] [--tokens 512] [--tolerance 0.1]

Builds launch and spmd and trains a Llama of 134 million parameters (12 layers of 768, 32,000 tokens, untied), and a model with experts,
for two steps. "measured" is what each rank says of itself: the most that the kernel has counted for it, its own part of the memory
that ranks exchange once and the others' not at all. The table has the rank that is the farthest from its plan. "all ranks" is counted
from outside, to check that: the peak of the proportional memory (PSS) of all processes together, in which a page that several
ranks have mapped counts once. The exit status is 1 where a rank is off by more than the tolerance, or all ranks together are.

Needs Go, about 8 GiB of memory, and some minutes. Measuring takes no time, so the machine need not be quiet.
"""
import argparse, os, re, subprocess, sys, tempfile
from compare_torch import pss_tree
import threading

LLAMA = """model_type = "llama"
hidden_size = 768
intermediate_size = 2048
num_hidden_layers = 12
num_attention_heads = 12
num_key_value_heads = 12
vocab_size = 32000
tie_word_embeddings = false
max_position_embeddings = 4096
"""
MOE = """model_type = "qwen3_moe"
hidden_size = 512
intermediate_size = 1536
moe_intermediate_size = 512
num_hidden_layers = 8
num_attention_heads = 8
num_key_value_heads = 4
head_dim = 64
num_experts = 16
num_experts_per_tok = 2
norm_topk_prob = true
decoder_sparse_step = 1
vocab_size = 16000
tie_word_embeddings = false
max_position_embeddings = 4096
"""
PIPELINE = [("gpipe", 1), ("1f1b", 1), ("zb-h1", 1), ("interleaved-1f1b", 2), ("zb-v", 2), ("dualpipe-v", 2)]


def layouts():
    """Yields kind, name, model, ranks, micro batches of the step, overrides."""
    for mode in ["none", "selective", "full"]:
        yield "recompute", f"one rank, {mode}", LLAMA, 1, 2, [f"recompute.mode={mode}"]
    for ranks in [2, 4]:
        for stage in range(4):
            yield "zero", f"data {ranks}, ZeRO {stage}", LLAMA, ranks, 2 * ranks, [f"parallel.zero_stage={stage}", "run.deterministic=run"]
    for ranks in [2, 4]:
        yield "tensor", f"tensor {ranks}", LLAMA, ranks, 2, [f"parallel.tensor={ranks}"]
        yield "tensor", f"tensor {ranks}, sequence", LLAMA, ranks, 2, [f"parallel.tensor={ranks}", "parallel.sequence_parallel=true"]
    for ranks in [2, 4]:
        for schedule, chunks in PIPELINE:
            more = [f"parallel.virtual_stages={chunks}"] if schedule == "interleaved-1f1b" else []
            yield "pipeline", f"pipeline {ranks}, {schedule}", LLAMA, ranks, 2 * ranks, [f"parallel.pipeline={ranks}", f"parallel.pipeline_schedule={schedule}"] + more
    for algorithm in ["ring", "ulysses"]:
        yield "context", f"context 2, {algorithm}", LLAMA, 2, 2, ["parallel.context=2", f"parallel.context_algorithm={algorithm}"]
    yield "experts", "experts, one rank", MOE, 1, 2, []
    yield "experts", "experts over 2", MOE, 2, 4, ["parallel.expert=2"]
    yield "experts", "experts over 4, ZeRO 1", MOE, 4, 4, ["parallel.expert=4", "parallel.zero_stage=1"]
    yield "composition", "data 2, pipeline 2, ZeRO 2", LLAMA, 4, 8, ["parallel.pipeline=2", "parallel.zero_stage=2", "run.deterministic=run"]
    yield "composition", "tensor 2, pipeline 2, sequence, selective", LLAMA, 4, 4, [
        "parallel.tensor=2", "parallel.pipeline=2", "parallel.sequence_parallel=true", "recompute.mode=selective"]
    yield "composition", "experts over 2, tensor 2, ZeRO 3", MOE, 4, 4, ["parallel.expert=2", "parallel.tensor=2", "parallel.zero_stage=3", "run.deterministic=run"]


def run(programs, directory, model, ranks, micro_batches, overrides, tokens):
    """Trains and returns (measured, planned) of each rank and the peak of all together, in MiB."""
    with open(f"{directory}/run.toml", "w") as f:
        f.write(f"""[run]
output_dir = "{directory}/out"
[data]
paths = ["$GOROOT/src/net/*.go"]
sequence_length = {tokens}
[train]
steps = 2
global_batch_size = {micro_batches}
[optimizer]
lr = 1e-4
[device]
threads = 1
[monitor]
sample_tokens = 0
[model.config]
{model}""")
    subprocess.run(["rm", "-rf", f"{directory}/out"], check=True)
    command = [f"{programs}/launch", "-n", str(ranks), f"{programs}/spmd", f"{directory}/run.toml", *overrides]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, done = [0], threading.Event()
    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], pss_tree(p.pid))
    t = threading.Thread(target=watch)
    t.start()
    out, _ = p.communicate()
    done.set()
    t.join()
    if p.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{out}")
    found = []
    for rank in range(ranks):
        with open(f"{directory}/out/logs/rank-{rank:05d}.log") as f:
            found.append(tuple(map(int, re.search(r"peak memory of rank \d+: (\d+) MiB, of which (\d+) MiB were planned", f.read()).groups())))
    return found, peak[0] / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="kinds of layouts: recompute, zero, tensor, pipeline, context, experts, composition")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--tolerance", type=float, default=0.1)
    a = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["go", "build", "-o", directory + "/", "./launch", "./spmd"], check=True, env={**os.environ, "CGO_ENABLED": "0"})
        print("| layout | planned | measured | | all ranks: planned | measured | |\n|---|---|---|---|---|---|---|", flush=True)
        for kind, name, model, ranks, micro_batches, overrides in layouts():
            if a.only and kind not in a.only.split(","):
                continue
            found, total = run(directory, directory, model, ranks, micro_batches, overrides, a.tokens)
            measured, planned = max(found, key=lambda f: abs(f[0] / f[1] - 1))
            all_planned = sum(f[1] for f in found)
            off, all_off = measured / planned - 1, total / all_planned - 1
            bad += max(abs(off), abs(all_off)) > a.tolerance
            print(f"| {name} | {planned} | {measured} | {off:+.1%} | {all_planned} | {total:.0f} | {all_off:+.1%} |", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
