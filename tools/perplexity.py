#!/usr/bin/env python3
"""Prints the perplexity of a dense checkpoint and of its weights rounded to 8 and 4 bits, as Tessera computes it.

Run by launch/local.sh, with `tessera` on the PATH and a pool of ranks waiting; needs numpy (for quantize.py):

  launch/local.sh --ranks 1 -- python3 tools/perplexity.py tests/data/tiny-qwen2

quantize.py makes each quantized checkpoint (round-to-nearest) in a temporary directory; each is loaded, scored and
unloaded. The text is cut into windows of --window tokens that do not overlap; each token but a window's first is
scored given those before it in its window. Prints a Markdown table: tokens scored, mean of -ln p (nats a token),
perplexity (its exponential), and the differences to the dense checkpoint, that of -ln p with its standard error over
the tokens. Exits 1, with the reason, where a checkpoint cannot be quantized or loaded.
"""

import argparse
import hashlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from golden_check import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "perplexity"
TOGETHER = 4  # requests in flight
ROUNDED = {  # title -> flags of quantize.py
    "GPTQ-Int8": ("--method", "gptq", "--bits", "8"),
    "GPTQ-Int4": ("--method", "gptq", "--bits", "4"),
    "GPTQ-Int4, zero points": ("--method", "gptq", "--bits", "4", "--asym"),
    "AWQ (Int4, zero points)": ("--method", "awq", "--bits", "4"),
}


def tokenize(files):
    """The ids of each file's text."""
    return [json.loads(run("tokenize", "--model", NAME, "--text-file", str(file), "--json"))["tokens"]
            for file in files]


def windows_of(texts, size):
    """Pieces of at most `size` ids; a piece of one id has nothing to score."""
    cut = [ids[at:at + size] for ids in texts for at in range(0, len(ids), size)]
    return [window for window in cut if len(window) > 1]


def score(window):
    """-ln p of each token of the window but the first."""
    answer = json.loads(
        run("generate", "--model", NAME, "--prompt-ids", ",".join(map(str, window)), "--max-tokens", "1",
            "--temperature", "0", "--repetition-penalty", "1", "--ignore-eos", "--prompt-logprobs", "--json"))
    return [-logprob for logprob in answer["prompt_logprobs"][1:]]


def measure(directory, args, windows):
    """-ln p of every scored token, and the windows: those given, or where None, those of --text."""
    run("load", "--model", f"{NAME}={directory}", "--tp", str(args.tp), "--context", str(args.window + 1),
        "--max-sequences", str(TOGETHER), "--timeout", "600")
    try:
        windows = windows or windows_of(tokenize(args.text), args.window)
        if sum(len(window) - 1 for window in windows) < 2:
            raise RuntimeError("the text has fewer than 2 tokens to score")
        with ThreadPoolExecutor(TOGETHER) as pool:
            return [loss for one in pool.map(score, windows) for loss in one], windows
    finally:
        run("unload", "--model", NAME, "--timeout", "60")


def row(title, losses, dense):
    count = len(losses)
    mean = sum(losses) / count
    cells = [title, f"{count:,}", f"{mean:.4f}", f"{math.exp(mean):.3f}"]
    if losses is dense:
        return cells + ["", ""]
    differences = [a - b for a, b in zip(losses, dense, strict=True)]
    change = sum(differences) / count
    error = math.sqrt(sum((d - change) ** 2 for d in differences) / (count * (count - 1)))
    relative = 100 * (math.exp(change) - 1)
    return cells + [f"{change:+.4f} ± {error:.4f}", f"{relative:+.2f} %"]


def show(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path, help="a dense checkpoint with a tokenizer")
    parser.add_argument("--also", type=pathlib.Path, action="append", default=[], metavar="DIR",
                        help="score this checkpoint of the same vocabulary too; may be repeated")
    parser.add_argument("--text", type=pathlib.Path, nargs="+", metavar="FILE",
                        default=sorted(ROOT.glob("tools/make_*.py")), help="UTF-8 text [tools/make_*.py]")
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale [128]")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window [512]")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks [1]")
    args = parser.parse_args()
    if args.window < 2:
        parser.error("--window: a window needs 2 tokens or more")

    digest = hashlib.sha256(b"".join(file.read_bytes() for file in args.text)).hexdigest()
    print(f"{args.checkpoint.name}, groups of {args.group}, windows of {args.window} tokens, tp {args.tp}; text: "
          f"{len(args.text)} files, {sum(file.stat().st_size for file in args.text):,} bytes, sha256 {digest[:12]}\n")
    show(["weights", "tokens", "mean -ln p", "perplexity", "difference of -ln p", "of perplexity"])
    show(["---"] * 6)
    dense, windows = measure(args.checkpoint, args, None)
    show(row(json.loads((args.checkpoint / "config.json").read_text()).get("dtype", "dense"), dense, dense))
    with tempfile.TemporaryDirectory() as parent:
        for number, (title, flags) in enumerate(ROUNDED.items()):
            out = pathlib.Path(parent) / str(number)
            subprocess.run([sys.executable, ROOT / "tools" / "quantize.py", args.checkpoint, out, *flags, "--group",
                            str(args.group)], check=True)
            show(row(title, measure(out, args, windows)[0], dense))
    for directory in args.also:
        show(row(directory.name, measure(directory, args, windows)[0], dense))


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"perplexity.py: {error}")
