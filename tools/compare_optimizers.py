#!/usr/bin/env python3
"""Hold Lockstep's optimizers against torch.optim, step by step, on the models and tokens of the golden runs.

    python tools/compare_optimizers.py [--optimizers adamw,muon,...] [--models llama,qwen3_moe] [--steps 50] [--golden]

Each run trains a model of spmd/train/testdata/golden with PyTorch and with Lockstep on the same batches, by the conventions of
the golden runs (see README.md there), and compares the loss of every step: within 1e-5 relative. --golden writes PyTorch's
curves to testdata/golden, where Go tests read them.

torch.optim.Muon runs its Newton-Schulz iteration in bfloat16, Lockstep in float32. The witness is torch's own code with
its one cast taken out; `muon-bfloat16` is torch.optim.Muon as it is, for the size of the difference, and has no bound.
Transformers keeps all experts of a layer in one tensor. They are given to the optimizer as views, one for each tensor of a
Hugging Face directory, as Lockstep takes them.

Needs: Go, and a Python with torch and transformers.
"""
import argparse, inspect, json, math, os, subprocess, sys, tempfile
import numpy as np, torch, transformers

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "spmd", "train", "testdata", "golden")
BATCH, ACCUM, SEQ, WARMUP, CLIP, DECAY, LIMIT = 8, 4, 45, 5, 0.5, 0.1, 1e-5
# What each run sets of [optimizer]. At larger learning rates differences of rounding grow from step to step, with any optimizer.
RUNS = {
    "adamw": dict(type="adamw", lr=1e-3),
    "muon": dict(type="muon", lr=0.02, adamw_lr=3e-3),
    "muon-rms": dict(type="muon", lr=3e-3, adjust_lr_fn="match_rms_adamw", nesterov=False, momentum=0.9),
    "muon-bfloat16": dict(type="muon", lr=0.02, adamw_lr=3e-3),
    "adafactor": dict(type="adafactor", lr=0.03),
    "adafactor-slow": dict(type="adafactor", lr=0.02, beta2_decay=-0.5, clip_threshold=2.0, adafactor_eps=[1e-5, 1e-2]),
}


def float32_muon():
    """torch.optim.Muon whose iteration keeps the gradient's type."""
    import torch.optim._muon as muon
    name = "_zeropower_via_newtonschulz"
    source = inspect.getsource(getattr(muon, name))
    assert source.count("torch.bfloat16") == 1
    scope = dict(vars(muon))
    exec(source.replace("torch.bfloat16", "grad.dtype"), scope)
    return muon, name, scope[name]


def tensors(model):
    """The parameters under the names of a Hugging Face directory, as views of those of the model."""
    for name, p in model.named_parameters():
        if p.ndim < 3:
            yield name, p, lambda p=p: p.grad
        elif name.endswith("gate_up_proj"):
            half = p.shape[1] // 2
            for e in range(p.shape[0]):
                for part, at in (("gate_proj", 0), ("up_proj", half)):
                    view = lambda t, e=e, at=at, half=half: t[e, at:at + half]
                    yield name.replace("gate_up_proj", f"{e}.{part}"), torch.nn.Parameter(view(p.data)), lambda p=p, view=view: view(p.grad)
        else:
            for e in range(p.shape[0]):
                yield name.replace("down_proj", f"{e}.down_proj"), torch.nn.Parameter(p.data[e]), lambda p=p, e=e: p.grad[e]


def optimizers(named, o):
    """The optimizers, each with its peak learning rate."""
    hidden = [p.ndim == 2 and "embed_tokens" not in n and "lm_head" not in n for n, p, _ in named]
    def groups(keep):
        chosen = [p for (_, p, _), k in zip(named, keep) if k]
        both = [dict(params=[p for p in chosen if p.ndim >= 2], weight_decay=DECAY), dict(params=[p for p in chosen if p.ndim < 2], weight_decay=0.0)]
        return [g for g in both if g["params"]]
    adamw = lambda keep: torch.optim.AdamW(groups(keep), lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    if o["type"] == "adamw":
        return [(adamw([True] * len(named)), o["lr"])]
    if o["type"] == "muon":
        muon = torch.optim.Muon(groups(hidden), lr=1.0, momentum=o.get("momentum", 0.95), nesterov=o.get("nesterov", True), adjust_lr_fn=o.get("adjust_lr_fn"))
        return [(muon, o["lr"]), (adamw([not h for h in hidden]), o.get("adamw_lr", o["lr"]))]
    eps = o.get("adafactor_eps", [None, 1e-3])
    return [(torch.optim.Adafactor(groups([True] * len(named)), lr=1.0, beta2_decay=o.get("beta2_decay", -0.8), eps=tuple(eps),
                                   d=o.get("clip_threshold", 1.0), foreach=False), o["lr"])]


def rate(i, steps, lr):
    if i < WARMUP:
        return lr * i / WARMUP
    p = (i - WARMUP) / max(1, steps - WARMUP)
    return lr / 10 + 0.5 * (lr - lr / 10) * (1 + math.cos(math.pi * p))


def run_torch(directory, o, steps):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").train()
    tokens = np.fromfile(os.path.join(GOLDEN, "corpus.bin"), np.uint16).astype(np.int64)
    epoch, micro = (len(tokens) - 1) // SEQ, BATCH // ACCUM
    named, rows = list(tensors(model)), []
    opts = optimizers(named, o)
    for i in range(steps):
        batch = torch.from_numpy(np.stack([tokens[(k % epoch) * SEQ:(k % epoch) * SEQ + SEQ + 1] for k in range(i * BATCH, (i + 1) * BATCH)]))
        total = 0.0
        for m in range(ACCUM):
            x, y = batch[m * micro:(m + 1) * micro, :-1], batch[m * micro:(m + 1) * micro, 1:]
            logits = model.lm_head(model.model(input_ids=x, use_cache=False).last_hidden_state)
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1), reduction="sum") / (BATCH * SEQ)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for _, p, gradient in named:
            p.grad = gradient()
        for opt, lr in opts:
            for g in opt.param_groups:
                g["lr"] = rate(i, steps, lr)
            opt.step()
        for p in list(model.parameters()) + [p for _, p, _ in named]:
            p.grad = None
        rows.append(dict(step=i + 1, loss=total, grad_norm=norm.item(), lr=rate(i, steps, o["lr"])))
    return rows


def run_lockstep(binary, directory, o, steps):
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/config.toml", "w") as f:
            keys = "\n".join(f"{k} = {json.dumps(v)}" for k, v in o.items())
            f.write(f'[run]\noutput_dir = "{d}/out"\n[model]\npath = "{directory}"\n[data]\nformat = "megatron"\npaths = ["{GOLDEN}/corpus"]\n'
                    f"sequence_length = {SEQ}\nshuffle = false\n[train]\nsteps = {steps}\nglobal_batch_size = {BATCH}\nmicro_batch_size = {BATCH // ACCUM}\n"
                    f"clip_grad_norm = {CLIP}\n[moe]\naux_loss = \"none\"\n[optimizer]\n{keys}\n[lr_schedule]\nwarmup_steps = {WARMUP}\nmin_lr = {o['lr'] / 10!r}\n")
        done = subprocess.run([binary, d + "/config.toml"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        with open(d + "/out/metrics.jsonl") as f:
            return [r for r in map(json.loads, f) if "loss" in r]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--optimizers", default=",".join(RUNS)); ap.add_argument("--models", default="llama,qwen3_moe")
    ap.add_argument("--steps", type=int, default=50); ap.add_argument("--golden", action="store_true")
    a = ap.parse_args()
    transformers.utils.logging.disable_progress_bar()
    muon, name, patched = float32_muon()
    original, failed = getattr(muon, name), False
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["go", "build", "-o", d + "/spmd", "./spmd"], check=True, cwd=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
        print("| optimizer | model | loss, first and last | worst loss | worst grad_norm |\n|---|---|---|---|---|")
        for which in a.optimizers.split(","):
            setattr(muon, name, original if which == "muon-bfloat16" else patched)
            for model in a.models.split(","):
                o, directory = RUNS[which], os.path.abspath(os.path.join(GOLDEN, model))
                want, got = run_torch(directory, o, a.steps), run_lockstep(d + "/spmd", directory, o, a.steps)
                assert len(want) == len(got)
                worst = {k: max(abs(g[k] - w[k]) / abs(w[k]) for g, w in zip(got, want)) for k in ("loss", "grad_norm")}
                failed |= worst["loss"] > LIMIT and which != "muon-bfloat16"
                print(f"| {which} | {model} | {want[0]['loss']:.6f} {want[-1]['loss']:.6f} | {worst['loss']:.1e} | {worst['grad_norm']:.1e} |", flush=True)
                if a.golden and which != "muon-bfloat16":
                    with open(os.path.join(GOLDEN, f"{model}-{which}.json"), "w") as f:
                        json.dump(dict(optimizer=o, versions=dict(torch=torch.__version__, transformers=transformers.__version__), steps=want), f, indent=1)
    sys.exit("the difference is too large" if failed else 0)


if __name__ == "__main__":
    main()
