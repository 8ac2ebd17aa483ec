#!/usr/bin/env python3
"""Random tokenizers and hostile texts, compared with the Hugging Face `tokenizers` library.

  fuzz_tokenizers.py --count N [--texts T] [--seed S] [--only I] [--keep DIR] [--build-dir DIR]

Takes the tokenizers of tests/data and trains N more in the style of Qwen 2, Llama 3, GPT-2 and Llama 2: odd
vocabulary sizes, ignore_merges, both spellings of merges, with and without NFC, added tokens with every
flag. Each is served by a CPU cluster beside a model of random weights, and T texts are compared:

  tessera tokenize, with and without --add-special-tokens, with encode(); tessera detokenize, with and
  without --skip-special-tokens, with decode(), of the text's ids and of random ids

Prints a line a tokenizer and the texts that differ; exits with 1 if one did. Needs tokenizers (written
with 0.23.3) and a build. About 30 texts a second.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import make_tokenizer_data as data

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<s>", "</s>", "[X]", "[ X ]", "ab", "abab", "é", "e\u0301",
          "Å", "\u212b!", "  ", "\n\n", "▁x", "Ġx", "的", "<0x0A>", "👍🏽", "'s", "x y", "_", "1", "12", "ﬁ", "\u0301", "İ", "\u00a0"]
MODEL = {"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1,
         "num_hidden_layers": 1, "max_position_embeddings": 64, "torch_dtype": "bfloat16"}


def draw_added(rng):
    """Added tokens with random flags; longer and shorter ones overlap."""
    tokens = []
    for content in rng.sample(TOKENS, rng.randrange(2, 14)):
        flags = {flag: rng.random() < 0.3 for flag in ("lstrip", "rstrip", "single_word", "special")}
        tokens.append(AddedToken(content, normalized=rng.random() < 0.4, **flags))
    return tokens


def corpus(rng):
    lines = data.corpus()
    return rng.sample(lines, rng.randrange(20, len(lines)))


def train_byte_level(rng):
    tokenizer = Tokenizer(models.BPE())
    if rng.random() < 0.5:
        tokenizer.normalizer = normalizers.NFC()
    prefix = rng.random() < 0.2
    pattern = rng.choice([data.QWEN2, data.LLAMA3, None])
    if pattern:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(rng), trainers.BpeTrainer(
        vocab_size=rng.randrange(257, 1500), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens(draw_added(rng))
    name = tokenizer.id_to_token(tokenizer.get_vocab_size() - 1)
    tokenizer.post_processor = rng.choice([
        processors.ByteLevel(trim_offsets=False),
        processors.Sequence([processors.ByteLevel(trim_offsets=False), template(tokenizer, name)])])
    return tokenizer


def template(tokenizer, name):
    return processors.TemplateProcessing(single=[name, "$A"], pair=[name, "$A", name + ":1", "$B:1"],
                                         special_tokens=[(name, tokenizer.token_to_id(name))])


def train_metaspace(rng):
    tokenizer = data.metaspace_bpe(rng.randrange(320, 900), with_bytes=rng.random() < 0.8)
    scheme = rng.choice(["first", "always", "never"])
    if rng.random() < 0.4:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=rng.random() < 0.5)
    tokenizer.decoder = rng.choice([data.llama2_decoder(), decoders.Metaspace(prepend_scheme=scheme)])
    tokenizer.add_tokens(draw_added(rng))
    return tokenizer


def draw_tokenizer(seed, index):
    """tokenizer.json's text."""
    rng = random.Random(f"{seed}:tokenizer:{index}")
    state = json.loads((train_byte_level if rng.random() < 0.7 else train_metaspace)(rng).to_str())
    if rng.random() < 0.4 and not any(" " in part for merge in state["model"]["merges"] for part in merge):
        state["model"]["merges"] = [" ".join(merge) for merge in state["model"]["merges"]]
    state["model"]["ignore_merges"] = rng.random() < 0.4
    return json.dumps(state, ensure_ascii=rng.random() < 0.5)


def scalar(rng, low, high):
    c = rng.randrange(low, high)
    return chr(c) if not 0xD800 <= c < 0xE000 else "\ufffd"


def hostile_piece(rng, names):
    kind = rng.randrange(16)
    if kind == 0:
        return "".join(scalar(rng, 0, 0x110000) for _ in range(rng.randrange(1, 8)))
    if kind == 1:
        return "".join(scalar(rng, 0, 0x3000) for _ in range(rng.randrange(1, 8)))
    if kind == 2:
        return rng.choice("aeoq1é한") + "".join(scalar(rng, 0x300, 0x370) for _ in range(rng.randrange(1, 12)))
    if kind == 3:
        low, high = rng.choice([(0xC0, 0x250), (0x1E00, 0x2000), (0xAC00, 0xD7A4), (0xF900, 0xFB00), (0x900, 0xE00), (0x1D15E, 0x1D165)])
        return unicodedata.normalize(rng.choice(["NFD", "NFC", "NFKD"]), "".join(scalar(rng, low, high) for _ in range(3)))
    if kind == 4:
        return "\u200d".join(rng.choice("👩👨👧❤🏳🙂") + rng.choice(["", "\ufe0f", "🏽"]) for _ in range(rng.randrange(1, 5)))
    if kind == 5:
        return "".join(rng.choice(["\r", "\n", "\r\n", " ", "\t", "\u3000", "\u00a0", "\u0085", "\u2028"]) for _ in range(rng.randrange(1, 20)))
    if kind == 6:
        return rng.choice(" \n\t\r\u3000") * rng.randrange(1, 200)
    if kind == 7:
        name = rng.choice(names)
        return name[:rng.randrange(len(name) + 1)] + rng.choice(["", " ", "x"]) + name[rng.randrange(len(name) + 1):]
    if kind in (8, 9):
        return rng.choice(["", " ", "  ", "\n", "a", "_", "é", "\u0301", "的"]) + rng.choice(names) + rng.choice(["", " ", "\n ", "b", "\u0301"])
    if kind == 10:
        return "".join(rng.choice(["0", "7", "٣", "१", "Ⅷ", "½", "³", "𝟙", "③", "."]) for _ in range(rng.randrange(1, 9)))
    if kind == 11:
        return rng.choice(["it", "I", "ÉCOLE", "是", ""]) + rng.choice(["'", "’"]) + rng.choice(["s", "S", "ſ", "LL", "lL", "re", "Ve", "d", "K", "\u212a", "m", "t", "'s"])
    if kind == 12:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))).decode(rng.choice(["latin-1", "utf-8"]), "replace")
    if kind == 13:
        return rng.choice(["▁", "Ġ", "Ċ", "<0x41>", "<0xE4>", "<unk>", "\ufeff", "\x00", "\x1f", "\u200b"]) * rng.randrange(1, 4)
    return data.random_text(rng, 6)


def draw_text(rng, names):
    if rng.random() < 0.02:
        return hostile_piece(rng, names) * rng.randrange(50, 300)
    return "".join(hostile_piece(rng, names) for _ in range(rng.randrange(1, 9)))


def long_texts(rng):
    """Single words and runs of a hundred thousand characters."""
    letters = "".join(rng.choice("etaoinshrdlu") for _ in range(100_000))
    return [letters, "ab" * 50_000, " " * 100_000, "1" * 100_000, "的" * 30_000, "e\u0301" * 30_000, "\u0316\u0301" * 5_000, "\r\n" * 50_000]


def expected(tokenizer, text):
    """What the library makes of it; None where it panics, as it does on some overlaps of added tokens."""
    try:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return {"ids": ids, "affixes": tokenizer.encode(text).ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "skipped": tokenizer.decode(ids)}
    except BaseException as error:  # PanicException is no Exception
        if type(error).__name__ != "PanicException":
            raise
        return None


def tessera(*arguments):
    done = subprocess.run(["tessera", *arguments], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().split("\n")[-1])
    return done.stdout


def detokenize(ids, *flags):
    if not ids:
        return ""
    return json.loads(tessera("detokenize", "--model", "t", "--json", "--ids", ",".join(map(str, ids)), *flags))["text"]


def actual(text, ids, path):
    path.write_text(text, encoding="utf-8", newline="")
    tokenize = lambda *flags: json.loads(tessera("tokenize", "--model", "t", "--json", "--text-file", str(path), *flags))["tokens"]
    found = {"ids": tokenize(), "affixes": tokenize("--add-special-tokens")}
    if len(ids) < 15_000:  # one argument of a command holds 128 KiB
        found |= {"decoded": detokenize(ids), "skipped": detokenize(ids, "--skip-special-tokens")}
    return found


def check_tokenizer(directory, texts, seed, index):
    """Texts compared, and the differences."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation(), tokenizer.no_padding()
    config = MODEL | {"vocab_size": max(tokenizer.get_vocab().values()) + 1}
    (directory / "config.json").write_text(json.dumps(config))
    tessera("load", "--model", f"t={directory}", "--load-format", "dummy", "--tp", "1")
    rng = random.Random(f"{seed}:text:{index}")
    names = TOKENS + [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    # The server takes no empty text.
    todo = [text for text in (draw_text(rng, names) for _ in range(texts)) if text] + long_texts(rng)[:2 + texts // 100]
    wrong = []
    for text in todo:
        theirs = expected(tokenizer, text)
        ours = actual(text, theirs["ids"] if theirs else [], directory / "text")
        if theirs is None:
            continue
        wrong += [f"{key} of {text[:200]!r}: {str(ours[key])[:300]}, tokenizers {str(theirs[key])[:300]}" for key in ours if ours[key] != theirs[key]]
    for _ in range(texts // 5):
        ids = [rng.randrange(config["vocab_size"]) for _ in range(rng.randrange(1, 12))]
        if detokenize(ids) != tokenizer.decode(ids, skip_special_tokens=False):
            wrong.append(f"decoded {ids}: {detokenize(ids)!r}")
    tessera("unload", "--model", "t")
    return len(todo), wrong


def run(arguments):
    """Inside the cluster."""
    parent = pathlib.Path(arguments.keep or tempfile.mkdtemp(prefix="fuzz_tokenizers."))
    stored = sorted((ROOT / "tests/data").glob("**/tokenizer.json"))
    total, failed = 0, []
    for index in range(len(stored) + arguments.count):
        if arguments.only is not None and index != arguments.only:
            continue
        directory = parent / f"tokenizer{index}"
        directory.mkdir(parents=True, exist_ok=True)
        text = stored[index].read_text() if index < len(stored) else draw_tokenizer(arguments.seed, index)
        (directory / "tokenizer.json").write_text(text)
        try:
            count, wrong = check_tokenizer(directory, arguments.texts, arguments.seed, index)
        except RuntimeError as error:
            count, wrong = 0, [str(error)]
        total += count
        print(f"{'FAILED' if wrong else 'ok':6} {index} {stored[index].parent.name if index < len(stored) else 'trained'}: {count} texts", flush=True)
        if wrong:
            failed.append(index)
            print("\n".join(f"    {line}" for line in wrong[:5]), flush=True)
    print(f"seed {arguments.seed}: {total} texts, tokenizers {tokenizers.__version__}, failed: {failed or 'none'}")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="tokenizers to train [8]")
    parser.add_argument("--texts", type=int, default=100, help="texts for each [100]")
    parser.add_argument("--seed", type=int, default=1, help="[1]")
    parser.add_argument("--only", type=int, help="one tokenizer, by its number")
    parser.add_argument("--keep", help="write the tokenizers there and keep them")
    parser.add_argument("--build-dir", help="where the programs were built [launch/local.sh's choice]")
    arguments = parser.parse_args()
    if "TESSERA_COORDINATOR" in os.environ:
        return run(arguments)
    build = ["--build-dir", arguments.build_dir] if arguments.build_dir else []
    return subprocess.run([ROOT / "launch/local.sh", "--ranks", "1", "--backend", "cpu", "--threads", "1", *build, "--",
                           sys.executable, *sys.argv]).returncode


if __name__ == "__main__":
    sys.exit(main())
