#!/usr/bin/env python3
"""Checks loaded checkpoints against transformers' own results (golden.json beside each), over any split.

Run by launch/local.sh, with `tessera` on the PATH and a pool of ranks waiting:

  golden_check.py [--fp32] SHAPE=DIR[,DIR...] ...     SHAPE: tpxpp, as in 2x1 or 2x2

For each shape and directory: loads the model so split, scores the reference's tokens (teacher-forced, so that one
differing token does not hide the rest), decodes greedily, unloads. Prints one line each; exits 1 when any is out of
bounds. Bounds are those of tests/worker/golden_gpu_test.cc; --fp32: those of CPU ranks.
"""

import json
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

NAME = "golden"
TOGETHER = 4  # requests in flight, so that steps hold several sequences
# A greedy id may differ where the reference's own two best are closer than this.
MARGIN = 0.15
# Log-probabilities: mean and 99th percentile of the absolute error.
F16 = (0.01, 0.03)
TRAINED_BF16 = (0.04, 0.15)
RANDOM_BF16 = (0.07, 0.3)
FP32 = (2e-4, 1e-3)


def run(*args):
    done = subprocess.run(["tessera", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tessera {args[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def generate(ids, max_tokens):
    return json.loads(
        run("generate", "--model", NAME, "--prompt-ids", ",".join(map(str, ids)), "--max-tokens", str(max_tokens),
            "--temperature", "0", "--repetition-penalty", "1", "--ignore-eos", "--prompt-logprobs", "--json"))


def errors_of(case):
    """Absolute errors of the log-probabilities of the reference's tokens, prompt and answer."""
    prompt = len(case["prompt_ids"])
    want = case["prompt_logprobs"][1:] + [best[0][1] for best in case["top5"]]
    got = generate(case["prompt_ids"] + case["greedy"], 1)["prompt_logprobs"][1:]
    if len(got) != prompt + len(case["greedy"]) - 1:
        raise RuntimeError(f"{len(got)} log-probabilities for {prompt} + {len(case['greedy'])} tokens")
    return [abs(g - w) for g, w in zip(got, want)]


def first_wrong_id(case):
    """None, or where a greedy id differs although the reference's two best are apart."""
    got = generate(case["prompt_ids"], len(case["greedy"]))["tokens"]
    for t, want in enumerate(case["greedy"]):
        if t < len(got) and got[t] == want:
            continue
        best = case["top5"][t]
        # From a near tie on the answers are different texts.
        return None if t < len(got) and best[0][1] - best[1][1] < MARGIN else t
    return None


def bounds_of(directory, fp32):
    if fp32:
        return FP32
    config = json.loads((directory / "config.json").read_text())
    if config.get("dtype", config.get("torch_dtype")) == "float16":
        return F16
    return TRAINED_BF16 if directory.name == "tiny-qwen2" else RANDOM_BF16


def check(shape, directory, fp32):
    tp, pp = shape.split("x")
    cases = json.loads((directory / "golden.json").read_text())["cases"]
    run("load", "--model", f"{NAME}={directory}", "--tp", tp, "--pp", pp, "--context", "1024", "--max-sequences",
        str(TOGETHER), "--timeout", "60")
    with ThreadPoolExecutor(TOGETHER) as pool:
        errors = sorted(e for one in pool.map(errors_of, cases) for e in one)
        wrong = [f"case {i} token {t}" for i, t in enumerate(pool.map(first_wrong_id, cases)) if t is not None]
    run("unload", "--model", NAME, "--timeout", "60")
    mean, tail = sum(errors) / len(errors), errors[len(errors) * 99 // 100]
    max_mean, max_tail = bounds_of(directory, fp32)
    good = mean <= max_mean and tail <= max_tail and not wrong
    ids = f"differ: {', '.join(wrong)}" if wrong else "agree up to near ties"
    print(f"golden tp {tp} pp {pp} {directory.name}: {len(errors)} log-probabilities, error mean {mean:.5f} "
          f"(<= {max_mean}), 99th percentile {tail:.5f} (<= {max_tail}), largest {errors[-1]:.5f}; ids {ids}: "
          f"{'ok' if good else 'FAILED'}", flush=True)
    return good


def main(args):
    fp32 = args[:1] == ["--fp32"]
    good, runs = True, 0
    for work in args[fp32:]:
        shape, _, directories = work.partition("=")
        for directory in filter(None, directories.split(",")):
            runs += 1
            try:
                good = check(shape, pathlib.Path(directory), fp32) and good
            except (RuntimeError, OSError, ValueError) as error:
                print(f"golden {shape} {directory}: {error}: FAILED", flush=True)
                good = False
    if runs == 0:
        sys.exit(__doc__)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
