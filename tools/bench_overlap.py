#!/usr/bin/env python3
"""What overlapping communication with computation saves between hosts: two network namespaces of this machine, joined by a link of limited
bandwidth, with the same training run in several ways.

    python tools/bench_overlap.py [--shows reduction interleaving experts hierarchy] [--rounds 3] [--steps 8] [--rate 1gbit] PROGRAMS

PROGRAMS is the directory with launch and spmd. Each round runs all ways of a table in turn; the figures are medians over the steps of a run,
without the first two, and then over the rounds. Every rank has one thread.

    step      its time
    exposed   how long of it the first rank's computation stood still for communication (exposed_communication_ms in metrics.jsonl);
              where ranks do not work in step, waiting for the other rank is in it too
    beyond    the step's time beyond that of the same run over an unlimited link, where --rate is not shaped at all: what the limited
              bandwidth costs, the processor time that TCP takes left out on both sides
    loss      of the last step, which must be the same in all ways of a table that promise the same bits

Needs root, iproute2 with a kernel that has network namespaces, veth and tbf, and a quiet machine.
"""

import argparse
import array
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile

MODELS = {
    "llama-15m": dict(model_type="llama", hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
                      tie_word_embeddings=True, vocab_size=32000),
    "llama-4-layers": dict(model_type="llama", hidden_size=768, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=12, num_key_value_heads=12,
                       tie_word_embeddings=True, vocab_size=32000),
    "deepseek-v3": dict(model_type="deepseek_v3", hidden_size=512, intermediate_size=1536, moe_intermediate_size=512, num_hidden_layers=6,
                        num_attention_heads=8, num_key_value_heads=8, n_routed_experts=16, num_experts_per_tok=2, n_shared_experts=4, n_group=4,
                        topk_group=2, first_k_dense_replace=1, q_lora_rank=96, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
                        v_head_dim=32, tie_word_embeddings=False, vocab_size=8000),
}

# The tables: the model, its tokens, ranks on each host, and the ways by name. What all ways have is under "".
SHOWS = {
    "reduction": ("llama-15m", 1024, 1, {
        "": "train.micro_batch_size=4 train.global_batch_size=8",
        "after the passes": "parallel.overlap=false",
        "overlapped": "parallel.overlap=true",
    }),
    "interleaving": ("llama-4-layers", 512, 1, {
        "": "parallel.tensor=2 train.micro_batch_size=1 train.global_batch_size=8",
        "one micro batch": "parallel.interleave_micro_batches=false",
        "interleaved": "parallel.interleave_micro_batches=true",
    }),
    "experts": ("deepseek-v3", 256, 1, {
        "": "parallel.expert=2 train.micro_batch_size=4 train.global_batch_size=16",
        "after the exchange": "parallel.overlap=false",
        "overlapped": "parallel.overlap=true",
    }),
    "hierarchy": ("llama-15m", 256, 2, {
        "": 'train.micro_batch_size=4 train.global_batch_size=16 run.deterministic="run"',
        "flat ring": 'collective.algorithm="ring" parallel.overlap=false',
        "two-level": 'collective.algorithm="two-level" parallel.overlap=false',
        "flat ring, buckets": 'collective.algorithm="ring"',
        "two-level, buckets": 'collective.algorithm="two-level"',
    }),
}

WARMUP = 2


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Hosts:
    """Two network namespaces with a cable between them."""

    def __init__(self, directory):
        self.names = [f"lockstep-bench-{os.getpid()}-{i}" for i in (1, 2)]
        self.addresses = ["10.78.0.1", "10.78.0.2"]
        self.rsh = pathlib.Path(directory) / "rsh"
        cases = "".join(f"{a}) n={n};; " for a, n in zip(self.addresses, self.names))
        self.rsh.write_text(f'#!/bin/sh\ncase "$1" in {cases}esac\nexec ip netns exec "$n" sh -c "$2"\n')
        self.rsh.chmod(0o755)

    def __enter__(self):
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.names[1])
        for name, address in zip(self.names, self.addresses):
            ip("-n", name, "address", "add", address + "/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name])

    def shape(self, rate):
        """Limits what each host sends; no rate: nothing is limited."""
        for name in self.names:
            tc = ["ip", "netns", "exec", name, "tc", "qdisc"]
            subprocess.run(tc + ["del", "dev", "eth0", "root"], stderr=subprocess.DEVNULL)
            if rate:
                subprocess.run(tc + ["add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "128kb", "latency", "20ms"], check=True)


def toml(value):
    return {True: "true", False: "false"}.get(value, json.dumps(value)) if not isinstance(value, int) or isinstance(value, bool) else str(value)


def write_run(directory, model, sequence, steps):
    """Writes tokens and the configuration that all ways begin with."""
    config = MODELS[model]
    words = range(config["vocab_size"])
    numbers = array.array("H", random.Random(1).choices(words, [1 / (w + 3) for w in words], k=1 << 18))  # as often as words in a text
    with open(directory / "tokens.bin", "wb") as f:
        numbers.tofile(f)
    with open(directory / "tokens.idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 1, 2) + struct.pack("<i", len(numbers)) + struct.pack("<q", 0) + struct.pack("<2q", 0, 1))
    (directory / "run.toml").write_text("\n".join([
        "[run]", 'output_dir = "out"', f"stop_step = {steps}", "[model.config]", *(f"{k} = {toml(v)}" for k, v in config.items()), f"max_position_embeddings = {sequence}",
        "[data]", 'format = "megatron"', f'paths = ["tokens"]', f"sequence_length = {sequence}", "[train]", f"steps = {steps + 1}", "global_batch_size = 8",
        "[optimizer]", "lr = 1e-5", "[device]", "threads = 1", ""]))


def train(programs, hosts, directory, slots, options):
    """Trains over both hosts and returns the medians of a step's time and its exposed communication, in ms, and the last loss."""
    shutil.rmtree(directory / "out", ignore_errors=True)
    (directory / "hosts").write_text("".join(f"{a} slots={slots}\n" for a in hosts.addresses))
    command = ["ip", "netns", "exec", hosts.names[0], programs / "launch", "--hostfile", "hosts", "--rsh", hosts.rsh, programs / "spmd", "run.toml", *options]
    done = subprocess.run([str(c) for c in command], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    with open(directory / "out/metrics.jsonl") as f:
        rows = [r for r in map(json.loads, f) if "loss" in r]
    of = lambda key: statistics.median(r[key] for r in rows[WARMUP:])
    return of("step_time_ms"), of("exposed_communication_ms"), rows[-1]["loss"]


def table(a, hosts, directory, show):
    """Prints the table of a show."""
    model, sequence, slots, ways = SHOWS[show]
    write_run(directory, model, sequence, a.steps)
    common = ways[""].split() + a.set
    names = [name for name in ways if name]
    rows = {(name, rate): [] for name in names for rate in (a.rate, "")}
    for i in range(a.rounds):
        for rate in (a.rate, ""):
            hosts.shape(rate)
            for name in names[::-1] if i % 2 else names:
                rows[name, rate].append(train(a.programs, hosts, directory, slots, common + ways[name].split()))
    print(f"\n{show}: {model}, {sequence} tokens a sample, {slots} rank{'s' * (slots > 1)} on each host, {' '.join(common)}\n")
    print(f"| | step at {a.rate}, ms | exposed | beyond | step, unlimited | exposed | loss |\n|---|---|---|---|---|---|---|")
    middle = lambda name, rate, i: statistics.median(r[i] for r in rows[name, rate])
    for name in names:
        step, exposed, free, without = (middle(name, rate, i) for rate in (a.rate, "") for i in (0, 1))
        losses = sorted({r[2] for rate in (a.rate, "") for r in rows[name, rate]})
        print(f"| {name} | {step:.0f} | {exposed:.0f} | {step - free:.0f} | {free:.0f} | {without:.0f} | {' '.join(map(repr, losses))} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--shows", nargs="+", default=list(SHOWS), choices=list(SHOWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all ways of a table")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that the namespaces go
    with tempfile.TemporaryDirectory() as directory, Hosts(directory) as hosts:
        for show in a.shows:
            table(a, hosts, pathlib.Path(directory), show)


if __name__ == "__main__":
    main()
