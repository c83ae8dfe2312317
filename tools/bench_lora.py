#!/usr/bin/env python3
"""Compare the speed and memory of LoRA fine-tuning with PEFT, side by side on one machine.

    python tools/bench_lora.py SPMD MODEL_DIR [--batch 1] [--seq 512] [--steps 6] [--rounds 3] [--threads 2] [--rank 16]

MODEL_DIR is a Hugging Face model such as SmolLM2-135M-Instruct. Each round runs PEFT and Lockstep in turn, in processes of their
own: random tokens, adapters of the given rank on all linear layers but the head, float32, clip to norm 1, AdamW (PyTorch's
fused one), and once more in bfloat16: a model in bfloat16 under autocast, lora.base_dtype and train.dtype. A process's figure is the median of its steps after two to warm up; printed are the medians over the rounds, and the
peak resident memory. Needs: torch, transformers, peft, numpy. Run it on a quiet machine.
"""
import argparse, json, os, resource, statistics, struct, subprocess, sys, tempfile, time

import numpy as np

WARMUP = 2


def run_peft(a):
    """One process of PEFT: prints the median step time and the peak memory."""
    import peft, torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(a.threads)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16 if a.bfloat16 else torch.float32, attn_implementation="sdpa")
    model = peft.get_peft_model(model, peft.LoraConfig(r=a.rank, lora_alpha=2 * a.rank, task_type="CAUSAL_LM", target_modules="all-linear")).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (a.batch, a.seq))
    times = []
    for _ in range(WARMUP + a.steps):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
    print(json.dumps([statistics.median(times[WARMUP:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def run_lockstep(a, base, dtype="float32"):
    """One run of spmd: its median step time and peak memory."""
    with tempfile.TemporaryDirectory() as d:
        vocabulary = json.load(open(os.path.join(a.model, "config.json")))["vocab_size"]
        tokens = np.random.default_rng(0).integers(0, vocabulary, a.batch * a.seq * 4 + 1).astype(np.int32)
        with open(f"{d}/t.bin", "wb") as h:
            h.write(tokens.tobytes())
        with open(f"{d}/t.idx", "wb") as h:
            h.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, 1, 2) + struct.pack("<iqqq", len(tokens), 0, 0, 1))
        text = dict(run=dict(output_dir=f"{d}/out", mode="finetune"), model=dict(path=os.path.abspath(a.model)),
                    data=dict(format="megatron", paths=[f"{d}/t"], sequence_length=a.seq),
                    train=dict(steps=WARMUP + a.steps, global_batch_size=a.batch, micro_batch_size=a.batch, dtype=dtype),
                    lora=dict(rank=a.rank, alpha=2 * a.rank, base_dtype=base), optimizer=dict(lr=1e-4), device=dict(threads=a.threads))
        with open(f"{d}/c.toml", "w") as h:
            for section, keys in text.items():
                h.write(f"[{section}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()))
        process = subprocess.Popen([a.spmd, f"{d}/c.toml"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit("spmd failed")
        rows = [json.loads(line) for line in open(f"{d}/out/metrics.jsonl")]
        return statistics.median([r["step_time_ms"] for r in rows if "loss" in r][WARMUP:]) / 1e3, usage.ru_maxrss / 1024


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("spmd"), ap.add_argument("model")
    for k, v in dict(batch=1, seq=512, steps=6, rounds=3, threads=2, rank=16).items():
        ap.add_argument("--" + k, type=int, default=v)
    ap.add_argument("--peft", action="store_true", help=argparse.SUPPRESS)
    ap.add_argument("--bfloat16", action="store_true", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.peft:
        return run_peft(a)
    def peft(*more):
        out = subprocess.run([sys.executable, *sys.argv, "--peft", *more], check=True, stdout=subprocess.PIPE).stdout
        return json.loads(out.splitlines()[-1])
    found = {}
    for _ in range(a.rounds):
        for name, run in {"PEFT": peft, "PEFT, bfloat16": lambda: peft("--bfloat16"), "Lockstep": lambda: run_lockstep(a, "float32"),
                          "Lockstep, base_dtype = bfloat16": lambda: run_lockstep(a, "bfloat16"),
                          "Lockstep, bfloat16": lambda: run_lockstep(a, "bfloat16", "bfloat16")}.items():
            found.setdefault(name, []).append(run())
    median = {name: [statistics.median(x) for x in zip(*runs)] for name, runs in found.items()}
    for name, (seconds, mib) in median.items():
        print(f"{name}: {seconds:.3f} s/step, {a.batch * a.seq / seconds:.0f} tokens/s, {mib:.0f} MiB; {median['PEFT'][0] / seconds:.2f}x PEFT's speed, "
              f"{mib / median['PEFT'][1]:.2f} of its memory")


if __name__ == "__main__":
    main()
