#!/usr/bin/env python3
"""Hold train.dtype = "bfloat16" against float32, and against what PyTorch's autocast does to the same curve.

    python tools/compare_bf16.py [--models llama,qwen3_moe] [--steps 100] [--trials 12] [--attention eager,sdpa]

The models of spmd/train/testdata/golden train by the conventions of the golden runs (see README.md there): with Lockstep in
float32 and in bfloat16, and with PyTorch under torch.autocast("cpu", torch.bfloat16). A trial starts at another place in
the tokens. Printed is how far each bfloat16 curve is from the float32 curve on the same tokens, whose bits Lockstep and PyTorch agree
on to about 1e-7: the largest relative difference of a loss, and the mean over all steps, of each trial; of these the mean, the median
and the worst over trials. Rounding errors grow with each step and some curves go astray for a while, with either program, so that
one trial says little. It fails where a loss is more than 1 % from float32, or where the mean over all models and trials is larger
than autocast's with the same attention for each.

Needs: Go, and a Python with torch and transformers.
"""
import argparse, json, math, os, statistics, struct, subprocess, sys, tempfile
import numpy as np, torch, transformers

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "spmd", "train", "testdata", "golden")
BATCH, ACCUM, SEQ, WARMUP, CLIP, DECAY, LR, LIMIT = 8, 4, 45, 5, 0.5, 0.1, 1e-3, 0.01


def rate(i, steps):
    if i < WARMUP:
        return LR * i / WARMUP
    p = (i - WARMUP) / max(1, steps - WARMUP)
    return LR / 10 + 0.5 * (LR - LR / 10) * (1 + math.cos(math.pi * p))


def rotate(directory, trial):
    """Writes the golden tokens, begun at another place, as a pair of files."""
    tokens = np.roll(np.fromfile(os.path.join(GOLDEN, "corpus.bin"), np.uint16), -3571 * trial)
    tokens.tofile(directory + "/corpus.bin")
    with open(directory + "/corpus.idx", "wb") as f:
        f.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQiqqq", 1, 8, 1, 2, len(tokens), 0, 0, 1))
    return tokens.astype(np.int64)


def run_torch(directory, tokens, steps, attention):
    """The losses of PyTorch under autocast. The loss itself is computed in float32 from logits in bfloat16."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention).train()
    epoch, micro, losses = (len(tokens) - 1) // SEQ, BATCH // ACCUM, []
    groups = [dict(params=[p for p in model.parameters() if p.ndim >= 2], weight_decay=DECAY), dict(params=[p for p in model.parameters() if p.ndim < 2], weight_decay=0.0)]
    opt = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for i in range(steps):
        batch = torch.from_numpy(np.stack([tokens[(k % epoch) * SEQ:(k % epoch) * SEQ + SEQ + 1] for k in range(i * BATCH, (i + 1) * BATCH)]))
        total = 0.0
        for m in range(ACCUM):
            x, y = batch[m * micro:(m + 1) * micro, :-1], batch[m * micro:(m + 1) * micro, 1:]
            with torch.autocast("cpu", torch.bfloat16):
                logits = model.lm_head(model.model(input_ids=x, use_cache=False).last_hidden_state).float()
                loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1), reduction="sum") / (BATCH * SEQ)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for g in opt.param_groups:
            g["lr"] = rate(i, steps)
        opt.step(); opt.zero_grad(set_to_none=True)
        losses.append(total)
    return losses


def run_lockstep(binary, directory, corpus, steps, dtype):
    """The losses of Lockstep."""
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/config.toml", "w") as f:
            f.write(f'[run]\noutput_dir = "{d}/out"\n[model]\npath = "{directory}"\n[data]\nformat = "megatron"\npaths = ["{corpus}/corpus"]\n'
                    f"sequence_length = {SEQ}\nshuffle = false\n[train]\nsteps = {steps}\nglobal_batch_size = {BATCH}\nmicro_batch_size = {BATCH // ACCUM}\n"
                    f'clip_grad_norm = {CLIP}\ndtype = "{dtype}"\n[moe]\naux_loss = "none"\n[optimizer]\nlr = {LR}\n[lr_schedule]\n'
                    f"warmup_steps = {WARMUP}\nmin_lr = {LR / 10!r}\n")
        done = subprocess.run([binary, d + "/config.toml"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        with open(d + "/out/metrics.jsonl") as f:
            return [r["loss"] for r in map(json.loads, f) if "loss" in r]


def deviation(got, want):
    assert len(got) == len(want)
    d = [abs(g - w) / w for g, w in zip(got, want)]
    return max(d), sum(d) / len(d)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default="llama,qwen3_moe"); ap.add_argument("--steps", type=int, default=100)
    ap.add_argument("--trials", type=int, default=12); ap.add_argument("--attention", default="eager,sdpa")
    a = ap.parse_args()
    transformers.utils.logging.disable_progress_bar()
    programs, results = ["Lockstep"] + [f"autocast, {x}" for x in a.attention.split(",")], {}
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["go", "build", "-o", d + "/spmd", "./spmd"], check=True, cwd=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
        print("| model | bfloat16 with | largest difference: worst | mean difference: mean | median | worst |\n|---|---|---|---|---|---|")
        for model in a.models.split(","):
            directory = os.path.abspath(os.path.join(GOLDEN, model))
            for trial in range(a.trials):
                tokens = rotate(d, trial)
                want = run_lockstep(d + "/spmd", directory, d, a.steps, "float32")
                curves = [run_lockstep(d + "/spmd", directory, d, a.steps, "bfloat16")] + [run_torch(directory, tokens, a.steps, x) for x in a.attention.split(",")]
                for program, got in zip(programs, curves):
                    results.setdefault((model, program), []).append(deviation(got, want))
            for program in programs:
                largest, mean = zip(*results[model, program])
                print(f"| {model} | {program} | {100 * max(largest):.3f} % | {100 * statistics.mean(mean):.4f} % | {100 * statistics.median(mean):.4f} % | {100 * max(mean):.4f} % |", flush=True)
    over_all = {p: statistics.mean(m for (_, q), r in results.items() if q == p for _, m in r) for p in programs}
    print("mean difference over all: " + "; ".join(f"{p} {100 * m:.4f} %" for p, m in over_all.items()))
    if max(largest for (_, p), r in results.items() if p == "Lockstep" for largest, _ in r) > LIMIT:
        sys.exit("a loss is too far from float32")
    if over_all["Lockstep"] > min(over_all.values()):
        sys.exit("farther from float32 than autocast")


if __name__ == "__main__":
    main()
