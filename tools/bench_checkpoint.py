#!/usr/bin/env python3
"""What a checkpoint in the background costs: how long the steps wait while the state is copied, beside a plain copy of as many bytes,
and how much longer the steps take while the copy is written.

    python tools/bench_checkpoint.py [--ranks 1] [--steps 32] [--interval 20] [--out DIRECTORY] PROGRAMS

PROGRAMS is the directory with launch and spmd. The run is llama-110m, 1 x 1024 tokens for each rank, float32, AdamW: 1.3 GB of state.
Checkpoints go to DIRECTORY, else to a temporary one. Needs numpy and a quiet machine.
"""
import argparse, json, re, statistics, struct, subprocess, sys, tempfile, time

import numpy

PARAMETERS = 109_528_320
CONFIG = """[run]
output_dir = "{out}/run"
[model.config]
model_type = "llama"
vocab_size = 32000
hidden_size = 768
intermediate_size = 2048
num_hidden_layers = 12
num_attention_heads = 12
num_key_value_heads = 12
tie_word_embeddings = true
max_position_embeddings = 1024
[data]
format = "megatron"
paths = ["{out}/tokens"]
sequence_length = 1024
[train]
steps = {last}
global_batch_size = {ranks}
[optimizer]
lr = 1e-4
[checkpoint]
interval = {interval}
keep = 1
[device]
threads = {threads}
"""


def copy_seconds(size):
    """Return the median time of a copy of size bytes between warm memory, by one thread."""
    src, dst, times = numpy.ones(size, numpy.uint8), numpy.ones(size, numpy.uint8), []
    for _ in range(7):
        start = time.perf_counter()
        numpy.copyto(dst, src)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds(text):
    """Return what Go writes as a duration, such as 1m2.5s or 140ms."""
    units = {"ms": 1e-3, "s": 1, "m": 60}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(ms|m|s)", text))


def train(a, out):
    """Train and return the times of the steps, the waits, and how long after them the checkpoints were written."""
    tokens = numpy.random.default_rng(1).integers(0, 32000, 1024 * a.ranks * (a.steps + 1) + 1).astype(numpy.uint16)
    tokens.tofile(out + "/tokens.bin")
    with open(out + "/tokens.idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 1, 2) + struct.pack("<i", len(tokens)) + struct.pack("<q", 0) + struct.pack("<2q", 0, 1))
    with open(out + "/run.toml", "w") as f:
        f.write(CONFIG.format(out=out, last=a.steps + 1, ranks=a.ranks, interval=a.interval, threads=2 // a.ranks))
    command = [a.programs + "/launch", "-n", str(a.ranks), a.programs + "/spmd", out + "/run.toml", f"run.stop_step={a.steps}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    with open(out + "/run/metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    steps = {r["step"]: r["step_time_ms"] / 1e3 for r in rows if "loss" in r}
    waits = {r["step"]: r["checkpoint_stall_ms"] / 1e3 for r in rows if "checkpoint_stall_ms" in r}
    written = {int(step): seconds(t) for step, t in re.findall(r"step-(\d+)\) \(steps waited: \S+\) \(time: (\S+)\)", done.stdout)}
    return steps, waits, written


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("programs")
    ap.add_argument("--ranks", type=int, default=1); ap.add_argument("--steps", type=int, default=32)
    ap.add_argument("--interval", type=int, default=20); ap.add_argument("--out")
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        steps, waits, written = train(a, a.out or temporary)
    size = 12 * PARAMETERS // a.ranks
    print(f"state of a rank {size / 1e6:.0f} MB; a copy of it takes {copy_seconds(size):.3f} s")
    beside = set()
    for step, wait in waits.items():
        print(f"after step {step}: steps waited {wait:.3f} s; written after {written[step]:.2f} s")
        at, last = wait, step
        while at < written[step] and last + 1 in steps:
            last += 1
            beside.add(last)
            at += steps[last]
    others = [t for step, t in steps.items() if step > 2 and step not in beside]
    usual, mine = statistics.median(others), [steps[step] for step in sorted(beside)]
    print(f"a step takes {usual:.3f} s (median of {len(others)}, {min(others):.3f} to {max(others):.3f}), while a checkpoint is written "
          f"{statistics.median(mine):.3f} s ({100 * (statistics.median(mine) / usual - 1):+.1f} %)")
    print("all steps: " + " ".join(f"{t:.3f}" + "*" * (step in beside) for step, t in steps.items()))


if __name__ == "__main__":
    main()
