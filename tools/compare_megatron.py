#!/usr/bin/env python3
"""Check that data.order = "megatron" is the order of Megatron-Core, and that both read the same .bin/.idx files.

    compare_megatron.py SPMD [--keep DIR] [--golden FILE]

SPMD is the spmd binary. For each of five data sets, each with two lengths of run of which one is longer than an epoch, and
for a blend of three, the script writes the tokens with `spmd preprocess`, opens them with megatron-core's IndexedDataset,
builds its GPTDataset or BlendedDataset, trains one step of a tiny model with data.order = "megatron", and compares the files
of indices in OUTPUT_DIR/data with Megatron-Core's, number for number. Exit status: 0 if all are equal, 1 if not.

With --golden it writes small indices of Megatron-Core's instead, which Lockstep's tests hold theirs against
(spmd/data/testdata/megatron.json).

Needs megatron-core (0.16), torch and numpy; no test of Lockstep needs this script.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import types

import numpy
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset

CONFIG = """
run.output_dir = "{out}"
run.seed = {seed}
run.stop_step = 1
train.steps = {steps}
train.global_batch_size = 4
optimizer.lr = 1e-3
[model.config]
model_type = "llama"
vocab_size = 257
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 256
[data]
format = "megatron"
tokenizer = "bytes"
order = "megatron"
sequence_length = {length}
validation_split = {split}
{data}
"""


def write_pair(spmd: str, directory: pathlib.Path, name: str, documents: int, seed: int) -> pathlib.Path:
    """Write documents of random lengths with spmd preprocess and check that megatron-core reads them."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices("abcdefgh \n", k=rng.choice([0, 3, 40, 300]))) for _ in range(documents)]
    lines = directory / f"{name}.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prefix = directory / name
    subprocess.run([spmd, "preprocess", lines, "--tokenizer", "bytes", "--output", prefix], check=True, stdout=subprocess.DEVNULL)
    dataset = IndexedDataset(str(prefix))
    assert len(dataset) == documents and len(dataset.document_indices) == documents + 1
    for i, text in enumerate(texts):
        assert dataset[i].tolist() == [*text.encode(), 256], (name, i)
    return prefix


def megatron(cache: pathlib.Path, blend, seed: int, samples: int, length: int, split: float):
    """Build Megatron-Core's training set and return it."""
    config = GPTDatasetConfig(
        random_seed=seed, sequence_length=length, blend=blend, split=f"{1 - split},{split},0", path_to_cache=str(cache),
        reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
        tokenizer=types.SimpleNamespace(eod=256, vocab_size=257, unique_identifiers={}, pad=-1),
    )
    sizes = [samples, None if split == 0 else 4, None]
    if blend[1] is not None:
        sizes = [samples, 4, 4]
    return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]


def lockstep(spmd: str, out: pathlib.Path, data: str, seed: int, steps: int, length: int, split: float) -> pathlib.Path:
    """Run one step and return the directory of the indices."""
    config = out.with_suffix(".toml")
    config.write_text(CONFIG.format(out=out, seed=seed, steps=steps, length=length, split=split, data=data))
    done = subprocess.run([spmd, config], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return out / "data"


def compare(what: str, theirs, directory: pathlib.Path) -> bool:
    """Compare a GPTDataset's three indices with those in a directory that are of the same shape and values."""
    for path in sorted(directory.glob("megatron-*-shuffle_index.npy")):
        base = str(path).removesuffix("shuffle_index.npy")
        ours = [numpy.load(f"{base}{name}_index.npy") for name in ("document", "sample", "shuffle")]
        if all(a.dtype == b.dtype and numpy.array_equal(a, b)
               for a, b in zip(ours, (theirs.document_index, theirs.sample_index, theirs.shuffle_index))):
            print(f"{what}: {len(theirs)} samples, {len(theirs.document_index)} documents: equal")
            return True
    print(f"{what}: DIFFERENT")
    return False


def write_golden(spmd: str, directory: pathlib.Path, path: str) -> None:
    """Write the indices and the samples of small data sets."""
    cases = []
    for number, (documents, length, samples, split) in enumerate([(7, 16, 20, 0), (7, 16, 70, 0), (7, 16, 100, 0.2), (2, 5, 400, 0)]):
        prefix = write_pair(spmd, directory, f"golden{number}", documents, 40 + number)
        dataset = IndexedDataset(str(prefix))
        theirs = megatron(directory / "cache", ([str(prefix)], None), 1234, samples, length, split)
        rows = [theirs._query_document_sample_shuffle_indices(i)[0].tolist() for i in range(0, len(theirs), 9)]
        cases.append({
            "documents": [dataset[i].tolist() for i in range(documents)], "seed": 1234, "length": length, "samples": samples,
            "split": split, "document_index": theirs.document_index.tolist(), "sample_index": theirs.sample_index.flatten().tolist(),
            "shuffle_index": theirs.shuffle_index.tolist(), "every_ninth": rows,
        })
    pathlib.Path(path).write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spmd")
    parser.add_argument("--keep", help="directory for the files, kept")
    parser.add_argument("--golden", help="file for small indices")
    arguments = parser.parse_args()
    directory = pathlib.Path(arguments.keep or tempfile.mkdtemp())
    directory.mkdir(parents=True, exist_ok=True)
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    if arguments.golden:
        write_golden(arguments.spmd, directory, arguments.golden)
        return 0
    good = True
    prefixes = []
    for number, (documents, length) in enumerate([(3, 16), (60, 64), (200, 32), (1000, 128), (20000, 64)]):
        prefix = write_pair(arguments.spmd, directory, f"set{number}", documents, number)
        prefixes.append(prefix)
        split = [0, 0.1, 0, 0.25, 0][number]
        dataset = IndexedDataset(str(prefix))  # it unmaps its lengths when it goes
        tokens = int(dataset.sequence_lengths.sum() * (1 - split))
        for epochs in (0.5, 1.3, 1.95, 2.9):
            steps = max(1, int(tokens * epochs / length / 4))
            seed = 1234 + number
            theirs = megatron(directory / "cache", ([str(prefix)], None), seed, 4 * steps, length, split)
            ours = lockstep(arguments.spmd, directory / f"run{number}-{epochs}", f'paths = ["{prefix}"]', seed, steps, length, split)
            good &= compare(f"{documents} documents, {epochs} epochs, sequence length {length}, split {split}", theirs, ours)
    weights = [0.3, 5, 1.7]
    for steps in (50, 3000):
        theirs = megatron(directory / "cache", ([str(p) for p in prefixes[2:]], weights), 77, 4 * steps, 64, 0)
        data = "".join(f'[[data.blend]]\nweight = {w}\npaths = ["{p}"]\n' for w, p in zip(weights, prefixes[2:]))
        ours = lockstep(arguments.spmd, directory / f"blend{steps}", data, 77, steps, 64, 0)
        for part, dataset in enumerate(theirs.datasets):
            good &= compare(f"blend of {4 * steps} samples, part {part}", dataset, ours)
        for name, want in (("dataset", theirs.dataset_index), ("dataset_sample", theirs.dataset_sample_index)):
            (path,) = ours.glob(f"blend-*-{name}_index.npy")
            got = numpy.load(path)
            same = got.dtype == want.dtype and numpy.array_equal(got, want)
            print(f"blend of {4 * steps} samples, {name} index: {'equal' if same else 'DIFFERENT'}")
            good &= same
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
