"""Write spmd/data/tokenizer/testdata/cases.json: small tokenizers of every kind that Lockstep reads, with the ids and texts
that Hugging Face's tokenizers give. "special", "decoded" and "skipped" are absent where they are as "ids", "text" and "decoded".

    pip install tokenizers==0.23.3
    python tools/make_tokenizer_cases.py spmd/data/tokenizer/testdata/cases.json

The two vocabularies are trained here, on text that is written below.
"""
import copy
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TRAINING = ["func main() {\n\tfmt.Println(\"the tokens of the text\")\n}\n", "for i := range tokens {\n\t\ttoken := tokens[i]\n\t}\n",
            "the text and the tokens, the model's words and the numbers 12 123 1234", "日本 日本語 你好 世界 你好", "  if err != nil {\n    return err\n  }\n"] * 3
TEXTS = ["", " ", "the tokens of the text", "  the   tokens\t\n\n of\r\nit  ", "func f(x int) (y, z string) {\n\treturn \"a\", `b`\n}\n", "I'll say THE model'S words, don't I?",
         "12345 1.5 ①Ⅷ½", "日本語 你好，世界！", "é e\u0301 \u00c5 \u212b ﬁ ß İ", "😀👩\u200d👩\u200d👧 \U0001f3f3\ufe0f", "<s> the<s>text </s>", "a<mask>b <mask> c\n<mask>\n", "theword word words aword word.",
         "▁the▁ ▁▁text▁", "\u00a0the\u3000text\u2028", "<0x41> <unk> x\x00y", "THE Text", " <sep>the <sep> text<sep>", "a" * 70 + "the" * 10 + " " * 70]


def train(model, pre_tokenizer, alphabet, size, normalizer=None, specials=()):
    t = Tokenizer(model)
    t.pre_tokenizer = pre_tokenizer
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=list(specials), show_progress=False))
    return t


def byte_level():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = train(models.BPE(), pre, pre_tokenizers.ByteLevel.alphabet(), 330)
    t.decoder = decoders.ByteLevel()
    return t


def sentencepiece():
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t = train(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True), pre_tokenizers.Metaspace(prepend_scheme="always"), [], 390, specials=specials)
    vocab = t.get_vocab()
    model = json.loads(t.to_str())["model"]
    t = Tokenizer(models.BPE(vocab, [tuple(m) for m in model["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials[:3]])
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def edited(base, **changes):
    """The tokenizer with parts replaced; a dict changes parts of a part."""
    content = json.loads(base.to_str())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and isinstance(content[key], dict) and "type" not in value else value
    return content


def split(pattern, behavior, invert=False, regex=True):
    return {"type": "Split", "pattern": {"Regex" if regex else "String": pattern}, "behavior": behavior, "invert": invert}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def template(*pieces):
    names = {"<s>": 1, "</s>": 2}
    return {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else {"SpecialToken": {"id": p, "type_id": 0}} for p in pieces], "pair": [],
            "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in names.items()}}


def cases():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    gpt2 = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    b, s = byte_level(), sentencepiece()
    size = b.get_vocab_size()
    added = copy.deepcopy(b)
    added.add_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False), AddedToken("<s>", rstrip=True, normalized=False),
                      AddedToken("word", single_word=True, normalized=False), AddedToken("THE Text", normalized=True), AddedToken("<sep>", lstrip=True, rstrip=True, normalized=True)])
    yield "llama3", edited(b, model={"ignore_merges": True})
    yield "gpt2", edited(b, pre_tokenizer=gpt2, post_processor={**gpt2, "trim_offsets": False})
    yield "nfc", edited(b, normalizer={"type": "NFC"})
    yield "added tokens", edited(added)
    yield "added tokens, lower case", edited(added, normalizer=sequence("normalizers", {"type": "NFKC"}, {"type": "Lowercase"}))
    for behavior in ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"]:
        yield f"split {behavior}", edited(b, pre_tokenizer=sequence("pretokenizers", split(r"\s|e", behavior), level))
        yield f"split {behavior} inverted", edited(b, pre_tokenizer=sequence("pretokenizers", split("the", behavior, True, False), level))
    for individual in (True, False):
        yield f"digits {individual}", edited(b, pre_tokenizer=sequence("pretokenizers", {"type": "Digits", "individual_digits": individual}, gpt2))
    yield "llama2", edited(s, post_processor=template("<s>", "A"))
    yield "template", edited(s, post_processor=sequence("processors", level, template("<s>", "A", "</s>", "<s>")))
    yield "replace, strip", edited(s, normalizer=sequence("normalizers", {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFD"},
                                                          {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "▁"}))
    metaspace = {"type": "Metaspace", "replacement": "▁"}
    for scheme in ["always", "first", "never"]:
        m = {**metaspace, "prepend_scheme": scheme, "split": scheme != "first"}
        yield f"metaspace {scheme}", edited(s, normalizer=None, pre_tokenizer=m, decoder=m)
    few = edited(s)
    few["model"] = {**few["model"], "byte_fallback": False, "vocab": dict(few["model"]["vocab"])}
    yield "unknown, fused", few
    yield "unknown", {**few, "model": {**few["model"], "fuse_unk": False}, "decoder": None}
    yield "unknown, left out", {**few, "model": {**few["model"], "unk_token": None}}
    assert size == 330


def main():
    out = []
    for name, content in cases():
        t = Tokenizer.from_str(json.dumps(content))
        rows = []
        for text in TEXTS:
            ids = t.encode(text, add_special_tokens=False).ids
            special = t.encode(text, add_special_tokens=True).ids
            row = {"text": text, "ids": ids, "special": special, "decoded": t.decode(special, skip_special_tokens=False),
                   "skipped": t.decode(special, skip_special_tokens=True)}
            same = [key for key, other in (("special", "ids"), ("decoded", "text"), ("skipped", "decoded")) if row[key] == row[other]]
            rows.append({key: value for key, value in row.items() if key not in same})
        out.append({"name": name, "tokenizer": content, "texts": rows})
    # The vocabularies and merges are the same in many tokenizers; they stand once.
    shared = {}
    for case in out:
        for key in ("vocab", "merges"):
            content = json.dumps(case["tokenizer"]["model"][key])
            case["tokenizer"]["model"][key] = shared.setdefault(content, f"{key}{len(shared)}")
    parts = {name: json.loads(content) for content, name in shared.items()}
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write('{"shared": ' + json.dumps(parts, ensure_ascii=False, separators=(",", ":")) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in out))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
