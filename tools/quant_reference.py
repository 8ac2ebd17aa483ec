#!/usr/bin/env python3
"""Writes golden.json for quantized checkpoints, from weights dequantized in double precision.

Needs numpy, torch, transformers and safetensors (made with torch 2.15, transformers 5.17.0):

    python3 tools/quant_reference.py DIR [DIR ...]       # writes DIR/golden.json
    python3 tools/quant_reference.py --inspect DIR ...   # prints what the files hold, writes nothing
    python3 tools/quant_reference.py --dump OUT.npz DIR  # the dequantized weights, to compare with

Reads GPTQ (v1 and v2, 2, 3, 4 and 8 bits), AWQ gemm and auto-round's container, by the formulas of
their formats and not by any quantizer's code: W[n][k] = scale * (q - zero) in float64, no rounding
to the scales' type. That product needs at most 11 + 9 bits, so float32 holds it exactly, and the
reference is transformers' eager model in fp32 with those weights: the same as for the dense models of
make_test_models.py, whose golden.json this one's layout is. A file whose tensors contradict its
config is an error that names both.
"""

import argparse
import json
import pathlib
import re
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from make_test_models import REFERENCE, golden_case

PROMPT_TOKENS = (1, 5, 16, 33, 120)
AWQ_SHIFT = np.array([0, 16, 4, 20, 8, 24, 12, 28])  # of column 8c+j within word c
SUFFIXES = (".qweight", ".qzeros", ".scales", ".g_idx")


class Mismatch(Exception):
    """The files contradict themselves; the text names both sides."""


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else None


def read_statement(directory):
    """What is said about the scheme: config.json first, then the files old quantizers leave beside it."""
    config = read_json(directory / "config.json")
    for name, found in [("config.json", config.get("quantization_config")),
                        *[(name, read_json(directory / name))
                          for name in ("quantize_config.json", "quant_config.json", "quantization_config.json")]]:
        if found:
            return name, found
    raise Mismatch(f"{directory}: no statement of the quantization in config.json or quantize_config.json")


def read_tensors(directory):
    files = sorted(directory.glob("*.safetensors"))
    tensors = {}
    for file in files:
        tensors.update(load_file(file))
    return tensors


def base_scheme(said):
    """bits, group, symmetric, layout ("gptq" or "awq") and what is added to a stored zero point."""
    method = said.get("quant_method", "gptq")
    scheme = dict(bits=said.get("bits", said.get("w_bit")), group=said.get("group_size", said.get("q_group_size")),
                  sym=said.get("sym", True))
    if method == "awq":
        if said.get("version", "gemm").lower() != "gemm":
            raise Mismatch(f"AWQ version {said['version']}; only gemm is read")
        return dict(scheme, sym=not said.get("zero_point", True), layout="awq", offset=0)
    if method == "gptq":
        form = said.get("checkpoint_format", said.get("format", "gptq"))
        return dict(scheme, layout="gptq", offset={"gptq": 1, "gptq_v2": 0}[form])
    packing = said.get("packing_format", "auto_round:auto_gptq")
    if packing in ("auto_round:auto_awq", "auto_round:awq"):
        return dict(scheme, layout="awq", offset=0)
    v1 = packing in ("auto_round:auto_gptq", "auto_round:gptq", "auto")
    return dict(scheme, layout="gptq", offset=1 if v1 else 0)


def scheme_of(name, said):
    """The scheme stated for one linear, or None where it is stated to be dense."""
    scheme = base_scheme(said)
    for pattern, change in (said.get("dynamic") or {}).items():
        if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
            if pattern.startswith("-:") or change is False:
                return None
            scheme.update({{"group_size": "group"}.get(key, key): value for key, value in change.items()})
            break
    for key, change in (said.get("extra_config") or {}).items():
        if key == name or re.fullmatch(key, name):
            scheme.update({{"group_size": "group"}.get(k, k): v for k, v in change.items()})
    skipped = said.get("modules_to_not_convert") or []
    if scheme["bits"] >= 16 or any(part in name for part in skipped):
        return None
    return scheme


def unpack_stream(words, bits, axis):
    """int32 words -> int64 values, fields in one little-endian stream of bits along `axis`."""
    words = np.moveaxis(words.view(np.uint32), axis, -1).astype(np.uint64)
    places = np.arange(32, dtype=np.uint64)
    stream = ((words[..., None] >> places) & np.uint64(1)).reshape(*words.shape[:-1], -1)
    fields = stream.reshape(*stream.shape[:-1], -1, bits).astype(np.int64)
    return np.moveaxis((fields << np.arange(bits)).sum(-1), -1, axis)


def unpack_awq(words):
    """[rows, words] -> [rows, 8 * words]"""
    words = words.view(np.uint32).astype(np.int64)
    return ((words[..., None] >> AWQ_SHIFT) & 15).reshape(words.shape[0], -1)


def as_float64(tensor):
    return tensor.to(torch.float64).numpy()


def expect(what, where, seen, wanted):
    if tuple(seen) != tuple(wanted):
        raise Mismatch(f"{where}: {what} is {list(seen)} in the tensors, {list(wanted)} by the config")


def unpack(name, tensors, scheme, shape):
    """q [K, N], zeros [G, N], scales [G, N] and the group of each row [K] of one linear of [N, K]."""
    rows, columns = shape
    bits, group = scheme["bits"], scheme["group"]
    group = columns if group == -1 else group
    groups = -(-columns // group)
    qweight = tensors[name + ".qweight"].numpy()
    qzeros = tensors[name + ".qzeros"].numpy()
    scales = as_float64(tensors[name + ".scales"])
    if scheme["layout"] == "awq":
        expect("qweight", name, qweight.shape, (columns, rows // 8))
        expect("qzeros", name, qzeros.shape, (groups, rows // 8))
        q, zeros = unpack_awq(qweight), unpack_awq(qzeros)
    else:
        expect("qweight", name, qweight.shape, (columns * bits // 32, rows))
        expect("qzeros", name, qzeros.shape, (groups, rows * bits // 32))
        q = unpack_stream(qweight, bits, 0)
        zeros = unpack_v1(qzeros, bits) if scheme["offset"] else unpack_stream(qzeros, bits, 1)
    expect("scales", name, scales.shape, (groups, rows))
    g_idx = tensors.get(name + ".g_idx")
    g_idx = np.arange(columns) // group if g_idx is None else g_idx.numpy()
    if g_idx.size != columns or g_idx.min() < 0 or g_idx.max() >= groups:
        raise Mismatch(f"{name}: g_idx of {g_idx.size} in [{g_idx.min()}, {g_idx.max()}] for {groups} groups")
    return q, zeros, scales, g_idx


def unpack_v1(qzeros, bits):
    """Stored zero - 1. Packers that subtract with a borrow are undone by one word-wide addition."""
    if bits == 3:
        return (unpack_stream(qzeros, bits, 1) + 1) & 7
    ones = np.uint32(sum(1 << place for place in range(0, 32, bits)))
    return unpack_stream((qzeros.view(np.uint32) + ones).view(np.int32), bits, 1)


def dequantize(name, tensors, scheme, shape):
    """[N, K] in float64"""
    q, zeros, scales, g_idx = unpack(name, tensors, scheme, shape)
    return (scales[g_idx] * (q - zeros[g_idx])).T


def dense_model(directory):
    """transformers' model of the checkpoint's architecture, without its quantization, weights unset."""
    config = transformers.AutoConfig.from_pretrained(directory)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager").eval()


def dense_weights(directory, model):
    """name -> float64 array for each parameter; checks that the config and the tensors agree."""
    tensors = read_tensors(directory)
    source, said = read_statement(directory)
    weights, used = {}, set()
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        stated, packed = scheme_of(name, said), name + ".qweight" in tensors
        in_scope = name != "lm_head" or said.get("lm_head", False)
        if packed and stated is None:
            raise Mismatch(f"{name}: qweight is in the tensors, {source} says dense")
        if not packed and stated is not None and in_scope:
            raise Mismatch(f"{name}: no qweight in the tensors, {source} says {stated['bits']} bits")
        if packed:
            weights[name + ".weight"] = dequantize(name, tensors, stated, module.weight.shape)
            used.update(name + suffix for suffix in SUFFIXES)
            if module.bias is None and name + ".bias" in tensors:
                if tensors[name + ".bias"].any():
                    raise Mismatch(f"{name}: a bias that is not zero, and the architecture has none")
                used.add(name + ".bias")
    for name, tensor in tensors.items():
        if name not in used:
            weights[name] = as_float64(tensor)
    return weights


@torch.no_grad()
def load_weights(model, weights, directory):
    parameters = dict(model.named_parameters())
    unknown = sorted(set(weights) - set(parameters) - {"lm_head.weight"})
    absent = sorted(set(parameters) - set(weights))
    if unknown or absent:
        raise Mismatch(f"{directory}: unknown tensors {unknown}, absent tensors {absent}")
    for name, parameter in parameters.items():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


def least_margin(case):
    return min(step[0][1] - step[1][1] for step in case["top5"])


def random_cases(directory, model):
    """One case a length. A prompt whose greedy choice is ever close is drawn again: BF16 could swap it."""
    generator = torch.Generator().manual_seed(sum(directory.name.encode()))
    cases = []
    for length in PROMPT_TOKENS:
        for _ in range(20):
            prompt = torch.randint(0, model.config.vocab_size, (length,), generator=generator).tolist()
            case = golden_case(model, prompt)
            if least_margin(case) >= 0.02:
                break
        cases.append(case)
    return cases


def trained_prompts(directory):
    """The prompts of the dense model's golden.json, where the quantized one was made from it."""
    made_by = read_json(directory / "made_by.json") or {}
    if made_by.get("base") != "tiny":
        return []
    dense = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny-qwen2" / "golden.json"
    return [case["prompt_ids"] for case in json.loads(dense.read_text())["cases"]]


def write_golden(directory):
    model = dense_model(directory)
    load_weights(model, dense_weights(directory, model), directory)
    cases = [golden_case(model, prompt) for prompt in trained_prompts(directory)] or random_cases(directory, model)
    about = (read_json(directory / "made_by.json") or {}).get("about", "")
    golden = {"name": directory.name, "about": about,
              "reference": f"{REFERENCE}, weights dequantized in float64", "cases": cases}
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    print(f"{directory.name}: least greedy margins {[round(least_margin(case), 3) for case in cases]}; "
          f"distinct greedy ids {[len(set(case['greedy'])) for case in cases]}", flush=True)


def inspect(directory):
    """Facts of the files, one line per linear: shapes, order of groups, zero points, signs of scales."""
    tensors = read_tensors(directory)
    source, said = read_statement(directory)
    print(f"{directory.name}: {source}: " + json.dumps({k: v for k, v in said.items() if k != "meta"}))
    for name, module in dense_model(directory).named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        if name + ".qweight" not in tensors:
            print(f"  {name}: dense {tensors[name + '.weight'].dtype if name + '.weight' in tensors else '(tied)'}")
            continue
        scheme = scheme_of(name, said)
        if scheme is None:
            raise Mismatch(f"{name}: qweight is in the tensors, {source} says dense")
        q, zeros, scales, g_idx = unpack(name, tensors, scheme, module.weight.shape)
        group = g_idx.size if scheme["group"] == -1 else scheme["group"]
        order = "absent" if name + ".g_idx" not in tensors else (
            "k/g" if (g_idx == np.arange(g_idx.size) // group).all() else "true order")
        bias = tensors.get(name + ".bias")
        bias = "none" if bias is None else f"{bias.dtype}{'' if bias.any() else ' all zero'}"
        words = np.unique(tensors[name + ".qzeros"].numpy().view(np.uint32))
        print(f"  {name}: {tuple(module.weight.shape)} {scheme['bits']} bits group {scheme['group']} scales "
              f"{tensors[name + '.scales'].dtype} {scales.shape} g_idx {order} bias {bias} "
              f"qzeros words {[hex(w) for w in words[:3]]} of {words.size} zeros {zeros.min()}..{zeros.max()} "
              f"q {q.min()}..{q.max()} scales {scales.min():.2e}..{scales.max():.2e} negative {(scales < 0).sum()}")


def dump(directory, out):
    model = dense_model(directory)
    np.savez(out, **{name: value for name, value in dense_weights(directory, model).items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--inspect", action="store_true", help="print what the files hold and write nothing")
    parser.add_argument("--dump", metavar="OUT.npz", help="write the dequantized weights of one DIR in float64")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    for directory in arguments.directories:
        try:
            if arguments.inspect:
                inspect(directory)
            elif arguments.dump:
                dump(directory, arguments.dump)
            else:
                write_golden(directory)
        except Mismatch as error:
            print(f"{directory.name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
