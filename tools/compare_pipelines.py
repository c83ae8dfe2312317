#!/usr/bin/env python3
"""Compare the pipeline schedules of Lockstep with those of torch.distributed.pipelining, cell by cell.

For each schedule that both have, spmd plan writes its table with --csv, and PyTorch's own generator makes one for the same ranks,
chunks and micro batches, without its idle cells. Needs torch, and Go to build spmd.
"""
import csv
import pathlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from torch.distributed.pipelining import schedules as torch_schedules

CONFIG = """
run.output_dir = "{dir}/out"
data = {{ paths = "{dir}/text", sequence_length = 8 }}
optimizer.lr = 1e-3
train = {{ steps = 1, global_batch_size = {micro} }}
parallel = {{ pipeline = {ranks}, pipeline_schedule = "{name}", virtual_stages = {virtual} }}
[model.config]
model_type = "llama"
vocab_size = 257
hidden_size = 16
intermediate_size = 16
num_hidden_layers = {layers}
num_attention_heads = 1
num_key_value_heads = 1
max_position_embeddings = 64
"""

CLASSES = {
    "interleaved-1f1b": torch_schedules.ScheduleInterleaved1F1B,
    "zb-v": torch_schedules.ScheduleZBVZeroBubble,
    "dualpipe-v": torch_schedules.ScheduleDualPipeV,
}


def torch_table(name, ranks, virtual, micro):
    rounds = max(1, micro // ranks)
    plan = SimpleNamespace(pp_group_size=ranks, n_local_stages=virtual, num_stages=ranks * virtual, _num_stages=ranks * virtual,
                           _n_microbatches=micro, number_of_rounds=rounds, microbatches_per_round=micro // rounds)
    rows = []
    for rank in range(ranks):
        plan.rank = rank
        actions = CLASSES[name]._calculate_single_rank_operations(plan, rank)
        rows.append([str(a) for a in actions if a is not None])
    return rows


def lockstep_table(spmd, directory, name, ranks, virtual, micro):
    config, table = directory / "c.toml", directory / "table.csv"
    config.write_text(CONFIG.format(dir=directory, name=name, ranks=ranks, virtual=virtual, micro=micro, layers=ranks * virtual))
    subprocess.run([spmd, "plan", config, "-n", str(ranks), "--csv", table], check=True, stdout=subprocess.DEVNULL)
    with open(table, newline="") as f:
        return list(csv.reader(f))


def main():
    directory = pathlib.Path(tempfile.mkdtemp())
    (directory / "text").write_text("a text " * 200)
    spmd = directory / "spmd"
    subprocess.run(["go", "build", "-o", spmd, "./spmd"], check=True, cwd=pathlib.Path(__file__).parent.parent)
    same = different = 0
    for name in CLASSES:
        for ranks in (2, 3, 4, 8):
            for virtual in (2,) if name != "interleaved-1f1b" else (2, 3):
                for micro in (ranks, 2 * ranks, 2 * ranks + 1, 4 * ranks):
                    if name == "dualpipe-v" and micro < 2 * ranks or name == "interleaved-1f1b" and micro % max(1, micro // ranks):
                        continue  # PyTorch has no such schedule
                    if torch_table(name, ranks, virtual, micro) == lockstep_table(spmd, directory, name, ranks, virtual, micro):
                        same += 1
                    else:
                        different += 1
                        print(f"{name} of {ranks} ranks x {virtual} chunks with {micro} micro batches differs")
    print(f"{same} tables are the same, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
