"""Compare LoRA fine-tuning in Lockstep with PEFT: the curve, the adapter, the merged model.

    python tools/compare_peft.py SPMD MODEL_DIR TEXT_FILE... [--steps 30] [--rank 16 ...]

MODEL_DIR is a Hugging Face model with its tokenizer, such as SmolLM2-135M-Instruct. The texts become chats of one user and one
assistant turn in the model's own template, one after the other in a Megatron token store that both sides read. Both start from
one adapter that PEFT makes, train with AdamW for --steps steps in float32, and must agree:

- every step's loss within 1e-4 relative, every gradient norm within 1e-3;
- PEFT loads adapter/ of the run: its mean loss on held-out samples is that of `spmd` with lora.init, within 1e-5 relative;
- Transformers loads what `spmd export --merge` writes, with the logits of PEFT within 1e-3 of their largest.

Needs: torch transformers peft numpy. Exit status: 0 if all of that holds, 1 if not.
"""
import argparse, json, os, struct, subprocess, sys, tempfile

import numpy as np
import peft, torch, transformers

CONFIG = """
[run]
output_dir = {out}
mode = "finetune"
[model]
path = {model}
[data]
format = "megatron"
paths = [{data}]
sequence_length = {seq}
shuffle = false
validation_paths = [{held}]
validation_batches = 2
[train]
steps = {steps}
global_batch_size = {batch}
micro_batch_size = {micro}
[lora]
rank = {rank}
alpha = {alpha}
rslora = {rslora}
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
init = {init}
[optimizer]
lr = 2e-4
[lr_schedule]
warmup_steps = 3
min_lr = 2e-5
"""
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_store(prefix, documents):
    """A Megatron token store of uint16 tokens."""
    lengths = np.array([len(d) for d in documents], np.int32)
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1].astype(np.int64) * 2)]).astype(np.int64)
    with open(prefix + ".bin", "wb") as h:
        for d in documents:
            h.write(np.array(d, np.uint16).tobytes())
    with open(prefix + ".idx", "wb") as h:
        h.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(documents), len(documents) + 1))
        h.write(lengths.tobytes() + pointers.tobytes() + np.arange(len(documents) + 1, dtype=np.int64).tobytes())


def chats(tokenizer, files):
    """Chats of one turn each: a question about a piece of text, and the piece."""
    for f in files:
        text = open(f, encoding="utf-8", errors="ignore").read()
        for at in range(0, len(text), 600):
            messages = [{"role": "user", "content": f"Continue {os.path.basename(f)} at {at}."}, {"role": "assistant", "content": text[at:at + 600]}]
            yield tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


def samples(documents, seq):
    tokens = np.concatenate([np.array(d, np.int64) for d in documents])
    n = (len(tokens) - 1) // seq
    return [tokens[j * seq:j * seq + seq + 1] for j in range(n)]


def loss_of(model, batch):
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))


def lr_at(i, a):
    if i < 3:
        return 2e-4 * i / 3
    return 2e-5 + 0.5 * (2e-4 - 2e-5) * (1 + np.cos(np.pi * (i - 3) / (a.steps - 3)))


def train(model, data, a):
    named = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(named, lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    rows = []
    for i in range(a.steps):
        for g in opt.param_groups:
            g["lr"] = lr_at(i, a)
        batch = torch.from_numpy(np.stack([data[k % len(data)] for k in range(i * a.batch, (i + 1) * a.batch)]))
        total = 0.0
        for part in batch.split(a.micro):
            loss = loss_of(model, part) * len(part) / len(batch)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(named, 1.0).item()
        opt.step()
        opt.zero_grad(set_to_none=True)
        rows.append((total, norm))
    return rows


def run_spmd(a, d, name, **keys):
    quote = lambda s: json.dumps(s)
    with open(f"{d}/{name}.toml", "w") as h:
        h.write(CONFIG.format(out=quote(f"{d}/{name}"), model=quote(a.model), data=quote(f"{d}/train"), held=quote(f"{d}/held"), seq=a.seq, steps=a.steps,
                              batch=a.batch, micro=a.micro, rank=a.rank, alpha=a.alpha, rslora=str(a.rslora).lower(), init=quote(keys.pop("init"))))
    subprocess.run([a.spmd, f"{d}/{name}.toml", *(f"{k}={v}" for k, v in keys.items())], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in open(f"{d}/{name}/metrics.jsonl")]


def close(what, got, want, limit):
    worst = max(abs(g - w) / abs(w) for g, w in zip(got, want, strict=True))
    print(f"{what}: worst relative difference {worst:.1e}")
    if not worst <= limit:
        sys.exit(f"{what}: more than {limit:.0e}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("spmd"), ap.add_argument("model"), ap.add_argument("texts", nargs="+")
    for k, v in dict(steps=30, batch=4, micro=2, seq=128, rank=16, alpha=32).items():
        ap.add_argument("--" + k, type=int, default=v)
    ap.add_argument("--rslora", action="store_true")
    a = ap.parse_args()
    a.model = os.path.abspath(a.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
    documents = list(chats(tokenizer, a.texts))
    held = documents[::9]
    documents = [c for i, c in enumerate(documents) if i % 9]
    load = lambda path: transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as d:
        write_store(f"{d}/train", documents), write_store(f"{d}/held", held)
        torch.manual_seed(1)
        model = peft.get_peft_model(load(a.model), peft.LoraConfig(r=a.rank, lora_alpha=a.alpha, use_rslora=a.rslora, task_type="CAUSAL_LM", target_modules=TARGETS))
        model.save_pretrained(f"{d}/init")
        want = train(model.train(), samples(documents, a.seq), a)
        got = [r for r in run_spmd(a, d, "out", init=f"{d}/init") if "loss" in r]
        close("loss", [r["loss"] for r in got], [w[0] for w in want], 1e-4)
        close("gradient norm", [r["grad_norm"] for r in got], [w[1] for w in want], 1e-3)
        print(f"loss {want[0][0]:.4f} -> {want[-1][0]:.4f}")

        ours = peft.PeftModel.from_pretrained(load(a.model), f"{d}/out/adapter").eval()
        batch = torch.from_numpy(np.stack(samples(held, a.seq)[:2 * a.batch]))
        with torch.no_grad():
            reference = loss_of(ours, batch).item()
            logits = ours(input_ids=batch[:2, :-1]).logits
        evaluated = run_spmd(a, d, "evaluated", init=f"{d}/out/adapter", **{"run.mode": "evaluate"})
        close("held-out loss with the adapter in PEFT", [evaluated[-1]["validation_loss"]], [reference], 1e-5)
        subprocess.run([a.spmd, "export", f"{d}/out", f"{d}/merged", "--merge"], check=True, stdout=subprocess.DEVNULL)
        merged = load(f"{d}/merged").eval()
        with torch.no_grad():
            difference = (merged(input_ids=batch[:2, :-1]).logits - logits).abs().max().item() / logits.abs().max().item()
        print(f"logits of the merged model: {difference:.1e} of the largest apart")
        if not difference <= 1e-3:
            sys.exit("the merged model is another one")
    print("the same")


if __name__ == "__main__":
    main()
