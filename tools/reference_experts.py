"""A training run of a small Qwen3-MoE in PyTorch with what Megatron-Core has for its experts and Transformers has not, a capacity,
over which assignments are dropped, or the balancing loss of the whole batch; or with LoRA on each expert's projections.

    python tools/reference_experts.py DIR PREFIX OUT.json [--capacity-factor 1.0] [--policy probs] [--global-coef 0.02] [--lora-rank 3]

DIR is a model made by reference.py, whose conventions these are: samples, AdamW, clipping, the learning rate. An assignment is
dropped where apply_router_token_dropping of megatron-core 0.16 drops it, by setting its weight to zero. The balancing loss is
that of _apply_global_aux_loss: E * sum f*P over each layer, P over a micro batch, f over all micro batches of the step so far.
With LoRA each expert's gate_proj, up_proj and down_proj have adapters of their own, as in PEFT with Transformers 4; those that the run
starts from are saved as a PEFT adapter beside OUT.json. PEFT with Transformers 5 joins them when it loads them.
"""
import argparse, json, math
import numpy as np
import torch
import torch.nn.functional as F
import os
import transformers
from safetensors.torch import save_file
from transformers.models.qwen3_moe import modeling_qwen3_moe as qm


def kept(weights, chosen, experts, factor, policy):
    """1 for each assignment that is kept, 0 for the others."""
    tokens, k = chosen.shape
    capacity = math.ceil(tokens * k / experts * factor)
    if capacity > tokens:
        return torch.ones_like(weights)
    probs = torch.zeros(tokens, experts).scatter(1, chosen, weights.detach())
    order = probs if policy == "probs" else -torch.arange(tokens)[:, None] + torch.zeros(tokens, experts).scatter(1, chosen, 2.0 * tokens)
    top = torch.topk(order, capacity, dim=0).indices
    return torch.zeros(tokens, experts).scatter(0, top, 1).gather(1, chosen)


class Adapted(torch.nn.Module):
    """scale * B A of each expert, added to stacked weights [experts, outputs, inputs] of one or several projections."""

    def __init__(self, name, stacked, projections, rank, scale):
        super().__init__()
        experts, outputs, inputs = stacked.shape
        self.names = [(e, i, f"{name}.{e}.{p}") for e in range(experts) for i, p in enumerate(projections)]
        self.shape, self.scale = (experts, len(projections)), scale
        self.a = torch.nn.ParameterList([(torch.rand(rank, inputs) * 2 - 1) / math.sqrt(inputs) for _ in self.names])
        self.b = torch.nn.ParameterList([torch.randn(outputs // len(projections), rank) * 0.02 for _ in self.names])

    def forward(self, w):
        delta = torch.stack([b @ a for a, b in zip(self.a, self.b)]) * self.scale
        return w + delta.view(w.shape)

    def tensors(self):
        for (_, _, name), a, b in zip(self.names, self.a, self.b):
            yield f"base_model.model.{name}.lora_A.weight", a.detach().clone()
            yield f"base_model.model.{name}.lora_B.weight", b.detach().clone()


def adapt(model, rank, alpha, out):
    """Freezes the model, gives its experts adapters and saves those."""
    torch.manual_seed(7)
    model.requires_grad_(False)
    adapters, tensors = [], {}
    for name, m in list(model.named_modules()):
        if isinstance(m, qm.Qwen3MoeExperts):
            for parameter, projections in (("gate_up_proj", ["gate_proj", "up_proj"]), ("down_proj", ["down_proj"])):
                adapters.append(Adapted(name, getattr(m, parameter), projections, rank, alpha / rank))
                torch.nn.utils.parametrize.register_parametrization(m, parameter, adapters[-1])
                tensors.update(adapters[-1].tensors())
    os.makedirs(out, exist_ok=True)
    save_file(tensors, os.path.join(out, "adapter_model.safetensors"), metadata={"format": "pt"})
    config = dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=os.path.basename(out).split("-")[0], r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none",
                  target_modules=["down_proj", "gate_proj", "up_proj"])
    json.dump(config, open(os.path.join(out, "adapter_config.json"), "w"), indent=2)
    return [p for a in adapters for p in a.parameters()]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dir"); ap.add_argument("prefix"); ap.add_argument("out")
    for k, d in dict(steps=24, batch=8, accum=4, seq=45, warmup=5, lora_rank=0, lora_alpha=6).items():
        ap.add_argument("--" + k.replace("_", "-"), type=int, default=d)
    for k, d in dict(lr=3e-3, min_lr=3e-4, clip=0.5, capacity_factor=0.0, global_coef=0.0).items():
        ap.add_argument("--" + k.replace("_", "-"), type=float, default=d)
    ap.add_argument("--policy", default="probs")
    a = ap.parse_args()
    torch.use_deterministic_algorithms(True)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.dir, dtype=torch.float32, attn_implementation="eager")
    experts, k = model.config.num_experts, model.config.num_experts_per_tok
    gates, seen, dropped = [m for m in model.modules() if isinstance(m, qm.Qwen3MoeTopKRouter)], [], [0.0, 0.0]

    def route(_, __, out):
        logits, weights, chosen = out
        seen.append((logits, chosen))
        if a.capacity_factor > 0:
            mask = kept(weights, chosen, experts, a.capacity_factor, a.policy)
            dropped[0] += (1 - mask).sum().item()
            dropped[1] += mask.numel()
            weights = weights * mask
        return logits, weights, chosen

    for g in gates:
        g.register_forward_hook(route)
    tokens = np.fromfile(a.prefix + ".bin", np.uint16).astype(np.int64)
    parameters = adapt(model, a.lora_rank, a.lora_alpha, a.out.removesuffix(".json")) if a.lora_rank else list(model.parameters())
    opt = torch.optim.AdamW([dict(params=[p for p in parameters if p.ndim >= 2], weight_decay=0.1),
                             dict(params=[p for p in parameters if p.ndim < 2], weight_decay=0.0)], lr=a.lr, betas=(0.9, 0.95), eps=1e-8)
    micro, epoch, rows = a.batch // a.accum, (len(tokens) - 1) // a.seq, []
    for i in range(a.steps):
        p = (i - a.warmup) / max(1, a.steps - a.warmup)
        lr = a.lr * i / a.warmup if i < a.warmup else a.min_lr + 0.5 * (a.lr - a.min_lr) * (1 + math.cos(math.pi * p))
        for g in opt.param_groups:
            g["lr"] = lr
        batch = torch.from_numpy(np.stack([tokens[(j % epoch) * a.seq:(j % epoch) * a.seq + a.seq + 1] for j in range(i * a.batch, (i + 1) * a.batch)]))
        total, aux_total, counts = 0.0, 0.0, [torch.zeros(experts) for _ in gates]
        dropped[:] = [0.0, 0.0]
        for m in range(a.accum):
            x, y = batch[m * micro:(m + 1) * micro, :-1], batch[m * micro:(m + 1) * micro, 1:]
            seen.clear()
            logits = model(input_ids=x, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / (a.batch * a.seq)
            aux = 0.0
            for g, (router, chosen) in enumerate(seen):
                counts[g] += torch.bincount(chosen.flatten(), minlength=experts)
                f = counts[g] / ((m + 1) * chosen.numel())
                aux = aux + experts * (f * router.softmax(-1).mean(0)).sum()
            (loss + a.global_coef * aux / a.accum).backward()
            total, aux_total = total + loss.item(), aux_total + aux.item() / a.accum
        norm = torch.nn.utils.clip_grad_norm_(parameters, a.clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
        row = dict(step=i + 1, loss=total, grad_norm=norm.item(), lr=lr)
        if a.global_coef > 0:
            row["aux_loss"] = aux_total
        if a.capacity_factor > 0:
            row["dropped"] = dropped[0] / dropped[1]
        rows.append(row)
    json.dump(dict(args={n: v for n, v in vars(a).items() if n not in ("dir", "prefix", "out")},
                   versions=dict(torch=torch.__version__, transformers=transformers.__version__), steps=rows), open(a.out, "w"), indent=1)
    print(f"{a.out}: loss {rows[0]['loss']:.6f} -> {rows[-1]['loss']:.6f}, {rows[-1]}")


if __name__ == "__main__":
    main()
