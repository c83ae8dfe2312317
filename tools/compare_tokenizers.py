"""Compare Lockstep's tokenizers with Hugging Face's: ids, decoded text and speed.

    pip install tokenizers
    go build -o /tmp/tokenize ./tools/tokenize
    TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1 python tools/compare_tokenizers.py /tmp/tokenize TOKENIZER.json ...

Every TOKENIZER.json is run on the same mixed text, of --megabytes: source code of $(go env GOROOT), sentences in other
scripts, emoji, white space, digits, the tokenizer's own special tokens, random characters of all planes, and bytes that are
no UTF-8 (Python reads them with errors="replace"). All ids must be equal, with and without the special tokens of the
post-processor, and so must be what they decode to. With --speed both run in turn, and the best of each counts.
"""
import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

from tokenizers import Tokenizer

CHINESE = "的一是不了人我在有他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏兴切图河早"
KANA = "のにはをがでとしてれるさいるなもことからあるまたよりその他アイウエオカキクケコサシスセソタチツテトナニヌネノン"
OTHERS = ["абвгдежзийклмнопрстуфхцчшщъыьэюя", "αβγδεζηθικλμνξοπρστυφχψωάέήίό", "ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "אבגדהוזחטיכלמנסעפצקרשת",
          "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्", "가나다라마바사아자차카타파하한국어말을에서는이다", "กขคงจฉชซญดตถทธนบปผพฟภมยรลวสหอะาิีึืุูเแโใไ",
          "áàâäãåçéèêëíìîïñóòôöõøúùûüýÿßœæŁłŠšŽž", "áéñöç"]
EMOJI = ["😀", "🎉", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "❤️", "🏳️‍🌈", "1️⃣", "🤷🏿‍♂️", "⚡", "→", "…", "“”", "€", "½", "²", "①", "〹", "Ⅷ", "٣", "९"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n\n", "\u00a0", "\u3000", "\u2009", "\u200b", "\x85", "\u2028", "        ", " \n ", "\x0b\x0c"]


def code(limit):
    """Yields files of the Go distribution, up to limit bytes."""
    root = subprocess.run(["go", "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip()
    paths = [os.path.join(d, f) for d, _, files in os.walk(os.path.join(root, "src")) for f in files
             if f.endswith((".go", ".s", ".md", ".txt", ".html"))]
    random.Random(1).shuffle(paths := sorted(paths))
    for path in paths:
        if limit <= 0:
            return
        with open(path, "rb") as f:
            content = f.read()[:400_000]
        limit -= len(content)
        yield content


def sentence(rng):
    """A sentence in some script, or a mixture."""
    kind = rng.randrange(8)
    if kind < 3:
        text = "".join(rng.choice(CHINESE) for _ in range(rng.randrange(5, 40)))
        return text[: len(text) // 2] + rng.choice("，、；：") + text[len(text) // 2 :] + rng.choice("。！？”）")
    if kind == 3:
        return "".join(rng.choice(KANA + CHINESE[:60]) for _ in range(rng.randrange(5, 30))) + "。"
    if kind == 4:
        letters = rng.choice(OTHERS)
        return " ".join("".join(rng.choice(letters) for _ in range(rng.randrange(1, 12))) for _ in range(rng.randrange(2, 12))) + rng.choice(".,!? ")
    if kind == 5:
        return "".join(rng.choice([rng.choice(EMOJI), rng.choice(SPACES), str(rng.randrange(10 ** rng.randrange(1, 20)))]) for _ in range(8))
    if kind == 6:
        words = ["I'm", "don't", "WE'LL", "it's", "x'S", "Hello", "WORLD", "fooBar", "snake_case", "http://a.b/c?d=e&f", "3.14159", "1,000,000", "--", "!!!", "({[]})", "a\u0301"]
        return "".join(rng.choice(words) + rng.choice(SPACES + ["", ""]) for _ in range(12))
    return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 12)))


def text_of(rng, limit, piece):
    """Texts of pieces, together of about limit bytes."""
    while limit > 0:
        text = "".join(piece(rng) for _ in range(rng.randrange(1, 60))).encode("utf-8", "ignore")
        limit -= len(text)
        yield text


def any_character(rng):
    """A character of any plane, assigned in Unicode 13 or not; seldom a mark that moves others in normal forms."""
    r = rng.randrange(10)
    top = 0x300 if r < 4 else 0x3000 if r < 7 else 0x10000 if r < 9 else 0x110000
    return chr(rng.randrange(top))


def corpus(tokenizer, megabytes):
    rng = random.Random(2)
    names = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    size = int(megabytes * 1e6)
    yield from code(size * 7 // 10)
    yield from text_of(rng, size * 2 // 10, sentence)
    yield from text_of(rng, size // 20, lambda r: r.choice([r.choice(names), sentence(r), r.choice(SPACES)]))
    yield from text_of(rng, size // 20, any_character)
    for _ in range(50):
        yield bytes(rng.randrange(256) for _ in range(200)) + sentence(rng).encode()[1:]
    yield from [b"", b" ", b"\n", b"a", "é".encode(), b" " * 5000, b"x" * 3000, b"ab" * 40000, "日".encode() * 3000, b"0" * 1000, b"\n \n" * 500]


def run(tokenize, path, texts, special, directory):
    """Runs Lockstep's tokenizer; returns ids, decoded texts and times."""
    names = [os.path.join(directory, n) for n in ("input", "ids", "texts")]
    with open(names[0], "wb") as f:
        for t in texts:
            f.write(struct.pack("<I", len(t)) + t)
    options = ["--special"] if special else []
    out = subprocess.run([tokenize, *options, path, *names], check=True, capture_output=True, text=True, env={**os.environ, "GOMAXPROCS": "1"})
    ids, decoded = [], []
    with open(names[1], "rb") as f:
        while head := f.read(4):
            n = struct.unpack("<I", head)[0]
            ids.append(list(struct.unpack(f"<{n}i", f.read(4 * n))))
    with open(names[2], "rb") as f:
        while head := f.read(4):
            decoded.append(f.read(struct.unpack("<I", head)[0]).decode())
    return ids, decoded, json.loads(out.stdout)


def show(text, ours, theirs):
    i = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"from item {i}: {ours[i:i + 8]!r} where Hugging Face has {theirs[i:i + 8]!r}; text {text[:200]!r}"


def compare(tokenize, path, tokenizer, raw, directory):
    """Compares ids and decoded texts; returns the number of differences."""
    texts = [t.decode("utf-8", "replace") for t in raw]
    differences = 0
    for special in (False, True):
        ids, decoded, _ = run(tokenize, path, raw, special, directory)
        assert len(ids) == len(texts) == len(decoded)
        unlike, returned = 0, 0
        for text, ours, our_text in zip(texts, ids, decoded):
            theirs = tokenizer.encode(text, add_special_tokens=special).ids
            if ours != theirs:
                unlike += 1
                if unlike <= 3:
                    print("  ids:", show(text, ours, theirs))
            their_text = tokenizer.decode(ours, skip_special_tokens=False)
            if our_text != their_text:
                differences += 1
                print("  text:", show(text, our_text, their_text))
            returned += our_text in (text, unicodedata.normalize("NFC", text))
        differences += unlike
        print(f"  {'with' if special else 'without'} special tokens: {len(texts) - unlike} of {len(texts)} texts have the same ids"
              f" ({sum(map(len, ids)):,} tokens); {returned} decode to the text, up to normal form C")
    return differences


def speed(tokenize, path, tokenizer, raw, directory, rounds):
    """Prints the best of both, on the texts of source code and other scripts."""
    texts = [t.decode("utf-8", "replace") for t in raw]
    raw = [t.encode() for t in texts]
    size = sum(map(len, raw)) / 1e6
    best = {"Lockstep": 1e9, "encode": 1e9, "encode_batch_fast": 1e9, "decode": 1e9, "Lockstep decode": 1e9}
    for _ in range(rounds):
        fresh = Tokenizer.from_file(path)
        begin = time.perf_counter()
        for t in texts:
            fresh.encode(t, add_special_tokens=False)
        best["encode"] = min(best["encode"], time.perf_counter() - begin)
        fresh = Tokenizer.from_file(path)
        begin = time.perf_counter()
        encoded = fresh.encode_batch_fast(texts, add_special_tokens=False)
        best["encode_batch_fast"] = min(best["encode_batch_fast"], time.perf_counter() - begin)
        ids = [e.ids for e in encoded]
        begin = time.perf_counter()
        for i in ids:
            fresh.decode(i, skip_special_tokens=False)
        best["decode"] = min(best["decode"], time.perf_counter() - begin)
        times = run(tokenize, path, raw, False, directory)[2]
        best["Lockstep"] = min(best["Lockstep"], times["encode"])
        best["Lockstep decode"] = min(best["Lockstep decode"], times["decode"])
    for name, seconds in best.items():
        print(f"  {name}: {size / seconds:.2f} MB/s")
    print(f"  {min(best['encode'], best['encode_batch_fast']) / best['Lockstep']:.1f} times as fast, decoding {best['decode'] / best['Lockstep decode']:.1f} times")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tokenize")
    p.add_argument("tokenizers", nargs="+")
    p.add_argument("--megabytes", type=float, default=11.0)
    p.add_argument("--speed", type=int, default=0, help="rounds of timing, in place of the comparison")
    o = p.parse_args()
    differences = 0
    with tempfile.TemporaryDirectory() as directory:
        for path in o.tokenizers:
            tokenizer = Tokenizer.from_file(path)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            raw = list(corpus(tokenizer, o.megabytes))
            print(f"{path}: {sum(map(len, raw)) / 1e6:.2f} MB in {len(raw)} texts", flush=True)
            if o.speed:
                speed(o.tokenize, path, tokenizer, raw, directory, o.speed)
            else:
                differences += compare(o.tokenize, path, tokenizer, raw, directory)
    if differences:
        sys.exit(f"{differences} differences")


if __name__ == "__main__":
    main()
