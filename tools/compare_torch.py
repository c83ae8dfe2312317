#!/usr/bin/env python3
"""Compare whole training steps with PyTorch + Transformers, side by side on one machine.

    python tools/compare_torch.py [--models llama-15m,qwen3-42m,llama-110m] [--rounds 3] [--steps 10] [--compile] [--ranks] [--recompute selective,full] [--bfloat16]

Each round runs PyTorch (eager; with --compile also compiled) and Lockstep in turn, in processes of their own, on the same
model, batch and number of threads. A process's figure is the median of its steps after two to warm up; the table has the
medians over the rounds. PyTorch's step is forward with labels, backward, clip to norm 1, fused AdamW, zero_grad. Memory is the
peak of the proportional memory (PSS) of all processes of a run, so that what is mapped by several counts once. --ranks compares 2 ranks of 1 thread each: DistributedDataParallel over gloo, and launch -n 2. --recompute
adds Lockstep with these values of recompute.mode; PyTorch always keeps its activations. --bfloat16 adds PyTorch under autocast and
Lockstep with train.dtype = "bfloat16"; the ratios are to the best and the least of PyTorch's rows.

Needs: Go, and a Python with torch and transformers. Run it on a quiet machine.
"""
import argparse, json, os, statistics, struct, subprocess, sys, tempfile, threading, time

MODELS = {
    "llama-15m": dict(cls="LlamaConfig", model_type="llama", hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6),
    "qwen3-42m": dict(cls="Qwen3Config", model_type="qwen3", hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64),
    "llama-110m": dict(cls="LlamaConfig", model_type="llama", hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12),
    "qwen3-moe": dict(cls="Qwen3MoeConfig", model_type="qwen3_moe", hidden_size=256, intermediate_size=768, moe_intermediate_size=256, num_hidden_layers=6,
                      num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_experts=16, num_experts_per_tok=4, norm_topk_prob=True, decoder_sparse_step=1),
    "deepseek-v3": dict(cls="DeepseekV3Config", model_type="deepseek_v3", hidden_size=256, intermediate_size=768, moe_intermediate_size=128, num_hidden_layers=6,
                        num_attention_heads=8, num_key_value_heads=8, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1, n_group=4, topk_group=2,
                        first_k_dense_replace=1, q_lora_rank=96, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
                        tie_word_embeddings=False),
}
SHAPES = {"llama-15m": (4, 256), "qwen3-42m": (4, 256), "llama-110m": (1, 1024), "qwen3-moe": (4, 256), "deepseek-v3": (4, 256)}  # samples per rank, tokens
COMMON = dict(vocab_size=32000, max_position_embeddings=1024, tie_word_embeddings=True)


def torch_worker(a):
    """One rank of PyTorch; rank 0 prints a JSON line."""
    import torch, transformers
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(a.threads)
    if world > 1:
        torch.distributed.init_process_group("gloo")
    spec = dict(MODELS[a.worker]); batch, seq = SHAPES[a.worker]
    config = getattr(transformers, spec.pop("cls"))(**{**COMMON, **{k: v for k, v in spec.items() if k != "model_type"}})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.train()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    net = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    net = torch.compile(net) if a.compile else net
    ids, times = torch.randint(0, 32000, (batch, seq)), []
    for i in range(2 + a.steps):
        t = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bfloat16):
            loss = net(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step(); opt.zero_grad(set_to_none=True)
        if i >= 2:
            times.append(time.perf_counter() - t)
    if rank == 0:
        print(json.dumps(dict(step_s=statistics.median(times))), flush=True)


def pss_tree(pid):
    """Proportional memory of a process and its descendants, in KiB."""
    total, todo, seen = 0, [pid], set()
    while todo:
        p = todo.pop()
        if p in seen:
            continue
        seen.add(p)
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children") as f:
                    todo += [int(c) for c in f.read().split()]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return total


def run(command, env=None):
    """Runs a command; returns its output and the peak of its process tree's proportional memory (PSS), in MiB."""
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    peak, done = [0], threading.Event()
    def watch():
        while not done.wait(0.25):
            peak[0] = max(peak[0], pss_tree(p.pid))
    t = threading.Thread(target=watch); t.start()
    out, err = p.communicate()
    done.set(); t.join()
    if p.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{out}{err}")
    return out, peak[0] / 1024


def bench_torch(model, a, threads, ranks, compile=False, bfloat16=False):
    command = [sys.executable, os.path.abspath(__file__), "--worker", model, "--threads", str(threads), "--steps", str(a.steps)] + (["--compile"] if compile else []) + (["--bfloat16"] if bfloat16 else [])
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] + command[1:]
    out, peak = run(command, {"OMP_NUM_THREADS": str(threads)})
    return json.loads(out.strip().splitlines()[-1])["step_s"], peak


def toml(model, directory, ranks):
    spec, (batch, seq) = MODELS[model], SHAPES[model]
    keys = COMMON | {k: v for k, v in spec.items() if k != "cls"}
    lines = [f"{k} = {json.dumps(v)}" for k, v in keys.items()]
    return f"""[run]
output_dir = "{directory}/out"
deterministic = "run"
[data]
format = "megatron"
paths = ["{directory}/tokens"]
sequence_length = {seq}
[train]
steps = STEPS
global_batch_size = {batch * ranks}
micro_batch_size = {batch}
[optimizer]
lr = 1e-4
[model.config]
""" + "\n".join(lines) + "\n"


def bench_lockstep(model, a, threads, ranks, binaries, recompute="none", dtype="float32"):
    with tempfile.TemporaryDirectory() as d:
        n = 300_000
        with open(d + "/tokens.bin", "wb") as f:
            state = 1
            values = bytearray()
            for _ in range(n):
                state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                values += struct.pack("<H", (state >> 33) % 32000)
            f.write(values)
        with open(d + "/tokens.idx", "wb") as f:
            f.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQiqqq", 1, 8, 1, 2, n, 0, 0, 1))
        with open(d + "/config.toml", "w") as f:
            f.write(toml(model, d, ranks).replace("STEPS", str(a.steps + 2)))
        command = [binaries + "/spmd", d + "/config.toml", f"device.threads={threads}", f"recompute.mode={recompute}", f"train.dtype={dtype}"]
        if ranks > 1:
            command = [binaries + "/launch", "-n", str(ranks)] + command
        _, peak = run(command)
        with open(d + "/out/metrics.jsonl") as f:
            rows = [json.loads(line) for line in f]
    return statistics.median(r["step_time_ms"] for r in rows[2:]) / 1e3, peak


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default=",".join(MODELS)); ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--steps", type=int, default=10); ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--compile", action="store_true"); ap.add_argument("--ranks", action="store_true")
    ap.add_argument("--recompute", default=""); ap.add_argument("--bfloat16", action="store_true")
    ap.add_argument("--worker", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.worker:
        return torch_worker(a)
    threads, ranks = (1, 2) if a.ranks else (a.threads, 1)
    with tempfile.TemporaryDirectory() as binaries:
        for name in ("spmd", "launch"):
            subprocess.run(["go", "build", "-o", f"{binaries}/{name}", f"./{name}"], check=True)
        print(f"| model | ranks x threads | who | s/step | tokens/s | peak MiB | speed | memory |\n|---|---|---|---|---|---|---|---|")
        for model in a.models.split(","):
            who = {"PyTorch eager": lambda: bench_torch(model, a, threads, ranks)}
            if a.compile:
                who["PyTorch compiled"] = lambda: bench_torch(model, a, threads, ranks, compile=True)
            who["Lockstep"] = lambda: bench_lockstep(model, a, threads, ranks, binaries)
            for mode in filter(None, a.recompute.split(",")):
                who[f"Lockstep, {mode}"] = lambda mode=mode: bench_lockstep(model, a, threads, ranks, binaries, mode)
            if a.bfloat16:
                who["PyTorch autocast"] = lambda: bench_torch(model, a, threads, ranks, bfloat16=True)
                who["Lockstep, bfloat16"] = lambda: bench_lockstep(model, a, threads, ranks, binaries, dtype="bfloat16")
            got = {name: [] for name in who}
            for _ in range(a.rounds):
                for name, bench in who.items():
                    got[name].append(bench())
            med = {name: (statistics.median(s for s, _ in rows), statistics.median(m for _, m in rows)) for name, rows in got.items()}
            best = min(s for name, (s, _) in med.items() if name.startswith("PyTorch"))
            least = min(m for name, (_, m) in med.items() if name.startswith("PyTorch"))
            tokens = ranks * SHAPES[model][0] * SHAPES[model][1]
            for name, (s, m) in med.items():
                print(f"| {model} | {ranks} x {threads} | {name} | {s:.3f} | {tokens / s:.0f} | {m:.0f} | {best / s:.2f} | {m / least:.2f} |", flush=True)


if __name__ == "__main__":
    main()
