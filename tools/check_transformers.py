#!/usr/bin/env python3
"""Check that a model trained by Lockstep is the same model in Hugging Face Transformers.

    check_transformers.py MODEL_DIR TEXT_FILE... --metrics METRICS_JSONL --sequence-length S --samples N

MODEL_DIR is OUTPUT_DIR/model of a run. The script loads it with AutoModelForCausalLM and AutoTokenizer, computes the mean
loss in float32 over the same samples that `spmd` takes with run.mode = "evaluate", and compares it with the
validation_loss that spmd wrote last into METRICS_JSONL. Exit status: 0 if the two agree within 1e-5 relative, 1 if not.

The samples are those of data.format = "text" without shuffling: the files in sorted order, each as the tokens of its text
(for the byte tokenizer its bytes) followed by the one that ends a document, make one sequence of tokens; sample j is
tokens[j*S : j*S+S+1], the first S the input, the last S the labels. N is train.global_batch_size times the number of
validation batches.

Needs torch and transformers; no test of Lockstep needs this script.
"""

import argparse
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-5
END_OF_DOCUMENT = 256


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("text_files", nargs="+")
    parser.add_argument("--metrics", required=True, help="metrics.jsonl of the evaluation")
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    return parser.parse_args()


def read_tokens(tokenizer, files: list[str]) -> list[int]:
    """Return the tokens of the files in sorted order, each followed by the end-of-document token."""
    tokens = []
    for path in sorted(files):
        with open(path, "rb") as f:
            content = f.read()
        # Not every class of Transformers leaves bytes alone.
        tokens += content if is_bytes(tokenizer) else tokenizer.encode(content.decode("utf-8", "replace"))
        tokens.append(tokenizer.eos_token_id)
    return tokens


def is_bytes(tokenizer) -> bool:
    """Report whether the tokenizer is Lockstep's of bytes."""
    return len(tokenizer) == END_OF_DOCUMENT + 1


def check_tokenizer(tokenizer, text: str) -> None:
    """Check that the tokenizer gives back the text, and if it is the one of bytes, that it gives the bytes of UTF-8."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.decode(ids) != text:
        sys.exit("the tokenizer does not decode to the text that it encoded")
    if is_bytes(tokenizer) and ids != list(text.encode()):
        sys.exit(f"the tokenizer does not give the bytes of the text: {ids[:20]}...")
    if is_bytes(tokenizer) and tokenizer.eos_token_id != END_OF_DOCUMENT:
        sys.exit(f"the tokenizer's end of text is {tokenizer.eos_token_id}, not {END_OF_DOCUMENT}")


def mean_loss(model_dir: str, tokens: list[int], length: int, samples: int) -> float:
    """Return the mean cross-entropy of the samples' labels, in nats; logits in float32, the sum in float64."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    total = 0.0
    with torch.no_grad():
        for j in range(samples):
            sample = torch.tensor(tokens[j * length : j * length + length + 1])
            logits = model(sample[None, :-1]).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, sample[1:], reduction="none")
            total += losses.double().sum().item()
    return total / (samples * length)


def last_validation_loss(path: str) -> float:
    """Return the validation_loss of the last row that has one."""
    with open(path) as f:
        losses = [row["validation_loss"] for row in map(json.loads, f) if "validation_loss" in row]
    if not losses:
        sys.exit(f"{path} has no validation_loss; give the metrics of a run with run.mode = \"evaluate\"")
    return losses[-1]


def main() -> int:
    o = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(o.model_dir)
    tokens = read_tokens(tokenizer, o.text_files)
    available = (len(tokens) - 1) // o.sequence_length
    if o.samples > available:
        sys.exit(f"the files hold {available} samples of {o.sequence_length} tokens, {o.samples} are wanted")
    check_tokenizer(tokenizer, "func main() {\n\tπ := \"naïve\" // 日本語\n}\n")
    theirs = mean_loss(o.model_dir, tokens, o.sequence_length, o.samples)
    ours = last_validation_loss(o.metrics)
    difference = abs(theirs - ours) / abs(theirs)
    verdict = "same" if difference <= TOLERANCE else "DIFFERENT"
    print(f"{verdict}: Transformers {theirs:.9f}, Lockstep {ours:.9f}, relative difference {difference:.2g}")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
