#!/usr/bin/env python3
"""Writes tests/data/sampling/warpers.json: what transformers keeps of a row of logits.

Each case holds logits, parameters, and the probability of every token after transformers' own
logits processors in the order that generate() applies them (repetition penalty, temperature,
top-k, top-p, min-p); a token that they dropped has probability 0.

Needs torch and transformers. Usage: make_sampling_golden.py OUTPUT.json
"""

import json
import sys

import torch
import transformers
from transformers.generation import logits_process as lp

VOCAB = 40
SEED = 20261120

CASES = [
    {"name": "temperature", "temperature": 0.7},
    {"name": "hot", "temperature": 3.0},
    {"name": "top_k", "top_k": 5},
    {"name": "top_k_one", "top_k": 1},
    {"name": "top_k_above_vocab", "top_k": 1000},
    {"name": "top_k_ties", "top_k": 6, "ties": True},
    {"name": "top_p", "top_p": 0.9},
    {"name": "top_p_half", "top_p": 0.5, "temperature": 1.3},
    {"name": "top_p_tiny", "top_p": 1e-6},
    {"name": "min_p", "min_p": 0.1},
    {"name": "min_p_one", "min_p": 1.0},
    {"name": "top_k_top_p", "top_k": 12, "top_p": 0.8},
    {"name": "top_k_top_p_min_p", "top_k": 20, "top_p": 0.95, "min_p": 0.08, "temperature": 1.2},
    {"name": "repetition", "repetition_penalty": 1.5, "seen": [0, 3, 7, 7, 11, 39]},
    {
        "name": "everything",
        "repetition_penalty": 1.2,
        "seen": [1, 2, 5, 8, 13],
        "temperature": 0.9,
        "top_k": 15,
        "top_p": 0.9,
        "min_p": 0.05,
    },
]


def probabilities(case, logits):
    """The probability of each token after the processors, as fp64."""
    ids = torch.tensor([case.get("seen", [0])])
    scores = logits[None].clone()
    if "repetition_penalty" in case:
        scores = lp.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])(ids, scores)
    if "temperature" in case:
        scores = lp.TemperatureLogitsWarper(case["temperature"])(ids, scores)
    if "top_k" in case:
        scores = lp.TopKLogitsWarper(case["top_k"])(ids, scores)
    if "top_p" in case:
        scores = lp.TopPLogitsWarper(case["top_p"])(ids, scores)
    if "min_p" in case:
        scores = lp.MinPLogitsWarper(case["min_p"])(ids, scores)
    return torch.softmax(scores[0].double(), dim=-1)


def main():
    generator = torch.Generator().manual_seed(SEED)
    cases = []
    for case in CASES:
        # Multiples of 1/64: exact in fp32 and in the file.
        logits = torch.round(torch.randn(VOCAB, generator=generator) * 1.5 * 64) / 64
        if case.get("ties"):
            logits = torch.round(logits * 2) / 2
        case = dict(case, logits=logits.tolist())
        case["probabilities"] = probabilities(case, logits).tolist()
        cases.append(case)
    origin = f"tools/make_sampling_golden.py, transformers {transformers.__version__}, torch {torch.__version__}"
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"origin": origin, "cases": cases}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
