"""A training run of a small DeepSeek-V3 in PyTorch with what Transformers does not train: multi-token prediction, the balancing
loss of each sequence, the router's z-loss and the bias that balances the experts' load.

    python tools/reference_deepseek.py DIR PREFIX OUT.json [--modules 2]

DIR is a model made by reference.py; the modules of multi-token prediction are added to its weights. The conventions are those of
reference.py: samples, AdamW, clipping, the learning rate. Formulas: DeepSeek-V3 Technical Report, sections 2.1.2 and 2.2; the
z-loss is ST-MoE's, equation 5, added up over layers.
"""
import argparse, json, math, os
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as ds


class Module(torch.nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.enorm, self.hnorm = (ds.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(2))
        self.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = ds.DeepseekV3DecoderLayer(config, index)
        self.norm = ds.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)


def names(index, name, tensor):
    """Hugging Face names of a module's tensor; experts one by one."""
    prefix = f"model.layers.{index}."
    name = name.removeprefix("block.")
    if name == "norm.weight":
        return {prefix + "shared_head.norm.weight": tensor}
    if name.endswith("experts.gate_up_proj"):
        out = {}
        for e, both in enumerate(tensor):
            gate, up = both.chunk(2)
            out[f"{prefix}mlp.experts.{e}.gate_proj.weight"], out[f"{prefix}mlp.experts.{e}.up_proj.weight"] = gate, up
        return out
    if name.endswith("experts.down_proj"):
        return {f"{prefix}mlp.experts.{e}.down_proj.weight": w for e, w in enumerate(tensor)}
    return {prefix + name: tensor}


def add_modules(a, config):
    torch.manual_seed(a.seed)
    modules, tensors = [], load_file(os.path.join(a.dir, "model.safetensors"))
    for k in range(a.modules):
        m = Module(config, config.num_hidden_layers - 1)  # a layer with experts
        with torch.no_grad():
            for p in list(m.parameters()) + [b for b in m.buffers()]:
                if p.ndim >= 2:
                    p.normal_(0, config.initializer_range)
                elif p.is_floating_point():
                    p.add_(torch.randn_like(p) * 0.05)
        modules.append(m)
        for name, tensor in m.state_dict().items():
            for n, t in names(config.num_hidden_layers + k, name, tensor).items():
                tensors[n] = t.clone().contiguous()
    save_file(tensors, os.path.join(a.dir, "model.safetensors"), metadata={"format": "pt"})
    raw = json.load(open(os.path.join(a.dir, "config.json")))
    raw["num_nextn_predict_layers"] = a.modules
    json.dump(raw, open(os.path.join(a.dir, "config.json"), "w"), indent=2, sort_keys=True)
    return modules


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dir"); ap.add_argument("prefix"); ap.add_argument("out")
    for k, d in dict(modules=2, seed=11, steps=24, batch=8, accum=4, seq=45, warmup=5).items():
        ap.add_argument("--" + k, type=int, default=d)
    for k, d in dict(lr=3e-3, min_lr=3e-4, clip=0.5, mtp=0.3, sequence=0.02, z=0.01, rate=0.01).items():
        ap.add_argument("--" + k.replace("_", "-"), type=float, default=d)
    a = ap.parse_args()
    torch.use_deterministic_algorithms(True)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.dir, dtype=torch.float32, attn_implementation="eager")
    config = model.config
    modules = add_modules(a, config)
    everything = torch.nn.ModuleList([model] + modules)
    gates = [m for m in everything.modules() if isinstance(m, ds.DeepseekV3TopkRouter)]
    seen = {}
    for g in gates:
        g.register_forward_hook(lambda m, _, out: seen.setdefault(m, []).append((out[0], out[2])))
    tokens = np.fromfile(a.prefix + ".bin", np.uint16).astype(np.int64)
    parameters = list(everything.parameters())
    opt = torch.optim.AdamW([dict(params=[p for p in parameters if p.ndim >= 2], weight_decay=0.1),
                             dict(params=[p for p in parameters if p.ndim < 2], weight_decay=0.0)], lr=a.lr, betas=(0.9, 0.95), eps=1e-8)
    micro, epoch, rows = a.batch // a.accum, (len(tokens) - 1) // a.seq, []
    for i in range(a.steps):
        p = (i - a.warmup) / max(1, a.steps - a.warmup)
        lr = a.lr * i / a.warmup if i < a.warmup else a.min_lr + 0.5 * (a.lr - a.min_lr) * (1 + math.cos(math.pi * p))
        for g in opt.param_groups:
            g["lr"] = lr
        batch = torch.from_numpy(np.stack([tokens[(k % epoch) * a.seq:(k % epoch) * a.seq + a.seq + 1] for k in range(i * a.batch, (i + 1) * a.batch)]))
        labels, total, mtp_total, aux_total, z_total = a.batch * a.seq, 0.0, 0.0, 0.0, 0.0
        load = [torch.zeros(config.n_routed_experts, dtype=torch.float64) for _ in gates]
        for m in range(a.accum):
            x, y = batch[m * micro:(m + 1) * micro, :-1], batch[m * micro:(m + 1) * micro, 1:]
            seen.clear()
            h = model.model(input_ids=x, use_cache=False).last_hidden_state
            loss = F.cross_entropy(model.lm_head(h).flatten(0, 1), y.flatten(), reduction="sum") / labels
            position = torch.arange(a.seq)[None]
            rope = model.model.rotary_emb(h, position)
            mask = torch.full((a.seq, a.seq), torch.finfo(torch.float32).min).triu(1)[None, None]
            mtp = 0.0
            for k, module in enumerate(modules):
                ahead = torch.cat([x[:, k + 1:], x[:, -(k + 1):]], 1)  # the last ones have no label and change no other
                target = torch.cat([y[:, k + 1:], torch.full_like(y[:, :k + 1], -100)], 1)
                pair = torch.cat([module.enorm(model.model.embed_tokens(ahead)), module.hnorm(h)], -1)
                out = module.block(module.eh_proj(pair), attention_mask=mask, position_embeddings=rope, position_ids=position)
                h = module.norm(out[0] if isinstance(out, tuple) else out)
                mtp = mtp + F.cross_entropy(model.lm_head(h).flatten(0, 1), target.flatten(), reduction="sum", ignore_index=-100) / labels / a.modules
            aux, z = 0.0, 0.0
            for g, gate in enumerate(gates):
                (logits, chosen), = seen[gate]
                load[g] += torch.bincount(chosen.flatten(), minlength=config.n_routed_experts)
                scores = logits.sigmoid().view(micro, a.seq, -1)
                mass = (scores / scores.sum(-1, keepdim=True)).mean(1)
                f = F.one_hot(chosen.view(micro, -1), config.n_routed_experts).sum(1) * config.n_routed_experts / (config.num_experts_per_tok * a.seq)
                aux = aux + (f * mass).sum(-1).mean()
                z = z + (logits.logsumexp(-1) ** 2).mean()
            (loss + a.mtp * mtp + (a.sequence * aux + a.z * z) / a.accum).backward()
            total, mtp_total = total + loss.item(), mtp_total + mtp.item()
            aux_total, z_total = aux_total + aux.item() / a.accum, z_total + z.item() / a.accum
        norm = torch.nn.utils.clip_grad_norm_(parameters, a.clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            for g, gate in enumerate(gates):
                gate.e_score_correction_bias += a.rate * torch.sign(load[g].mean() - load[g]).float()
        rows.append(dict(step=i + 1, loss=total, grad_norm=norm.item(), lr=lr, mtp_loss=mtp_total, aux_loss=aux_total, z_loss=z_total))
    json.dump(dict(args={k: v for k, v in vars(a).items() if k not in ("dir", "prefix", "out")},
                   versions=dict(torch=torch.__version__, transformers=transformers.__version__), steps=rows), open(a.out, "w"), indent=1)
    print(f"{a.out}: loss {rows[0]['loss']:.6f} -> {rows[-1]['loss']:.6f}, mtp {rows[0]['mtp_loss']:.6f} -> {rows[-1]['mtp_loss']:.6f}")


if __name__ == "__main__":
    main()
