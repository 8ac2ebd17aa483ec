#!/usr/bin/env python3
"""Rounds a dense checkpoint to the nearest integers, in the file formats of GPTQ or AWQ.

    python3 tools/quantize.py SOURCE OUT --method gptq --bits 4 --group 128 [--asym]
    python3 tools/quantize.py SOURCE OUT --method awq --group 128

Needs numpy. No calibration data: a test or demo file, worse than what the quantizers
make. Every linear layer of the decoder is quantized, embedding, norms, biases and head keep their bytes; all else in
SOURCE is copied. Holds one tensor file of the result in memory.
"""

import argparse
import json
import pathlib
import re
import shutil

import numpy as np

LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight$")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of each nibble of a word


def to_float32(raw, dtype, shape):
    """A tensor's bytes as float32; numpy has no bfloat16."""
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(raw, {"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32).reshape(shape)


def read_headers(path):
    """name -> (dtype, shape, begin, end) of a safetensors file, offsets from its start."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], *(8 + length + offset for offset in t["data_offsets"]))
            for name, t in header.items()}


def round_weight(weight, bits, group, symmetric):
    """q [K, N] and zeros [G, N] as integers, scales [G, N] as float16, of a [N, K] weight."""
    rows, columns = weight.shape
    group = columns if group == -1 else group
    top = 2**bits - 1
    q = np.empty((columns, rows), np.uint8)
    groups = -(-columns // group)
    scales, zeros = np.empty((groups, rows), np.float16), np.empty((groups, rows), np.uint8)
    for g in range(groups):
        part = weight[:, g * group:(g + 1) * group]
        if symmetric:
            step = 2 * np.abs(part).max(1) / top
            zero = np.full(rows, 2 ** (bits - 1))
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            step = (high - low) / top
        step = np.where(step == 0, 1, step).astype(np.float16)
        step = np.where(step == 0, np.float16(6e-8), step)  # below the smallest float16
        if not symmetric:
            zero = np.clip(np.rint(-low / step.astype(np.float32)), 0, top)
        scales[g], zeros[g] = step, zero
        steps = step.astype(np.float32)[:, None]
        q[g * group:(g + 1) * group] = np.clip(np.rint(part / steps) + zero[:, None], 0, top).T
    return q, zeros, scales


def pack_rows(values, bits):
    """[K, N] -> int32 [K * bits / 32, N], lowest bits first."""
    per_word = 32 // bits
    fields = values.reshape(-1, per_word, values.shape[1]).astype(np.uint32)
    shifts = (np.arange(per_word, dtype=np.uint32) * bits)[None, :, None]
    return np.bitwise_or.reduce(fields << shifts, axis=1).view(np.int32)


def pack_awq(values):
    """[K, N] -> int32 [K, N / 8]"""
    fields = values.reshape(values.shape[0], -1, 8)[:, :, AWQ_ORDER].astype(np.uint32)
    return np.bitwise_or.reduce(fields << (np.arange(8, dtype=np.uint32) * 4), axis=2).view(np.int32)


def pack_gptq_zeros(zeros, bits):
    """zero - 1 with a borrow through the word: [G, N] -> int32 [G, N * bits / 32]"""
    words = pack_rows(zeros.T, bits).T.view(np.uint32)
    ones = np.uint32(sum(1 << place for place in range(0, 32, bits)))
    return np.ascontiguousarray((words - ones).view(np.int32))


def quantize(name, weight, args):
    """The tensors that take the place of NAME.weight."""
    rows, columns = weight.shape
    if rows % 32 or columns % 32:
        raise SystemExit(f"{name}: [{rows}, {columns}], both must be multiples of 32")
    symmetric = args.method == "gptq" and not args.asym
    q, zeros, scales = round_weight(weight, args.bits, args.group, symmetric)
    if args.method == "awq":
        return {"qweight": pack_awq(q), "qzeros": pack_awq(zeros), "scales": scales}
    group = columns if args.group == -1 else args.group
    return {"qweight": pack_rows(q, args.bits), "qzeros": pack_gptq_zeros(zeros, args.bits), "scales": scales,
            "g_idx": (np.arange(columns) // group).astype(np.int32)}


def statement(args):
    """config.json's quantization_config."""
    if args.method == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": args.group, "version": "gemm", "zero_point": True,
                "modules_to_not_convert": None}
    return {"quant_method": "gptq", "bits": args.bits, "group_size": args.group, "desc_act": False,
            "sym": not args.asym, "checkpoint_format": "gptq", "lm_head": False}


def write_file(path, tensors):
    """tensors: name -> (dtype, shape, bytes), in the order in which they are laid down"""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, raw in tensors.values():
            file.write(raw)


def convert_file(source, target, args):
    """Writes one tensor file; returns the names in it. What is not quantized keeps its bytes."""
    tensors = {}
    with open(source, "rb") as file:
        for name, (dtype, shape, begin, end) in read_headers(source).items():
            file.seek(begin)
            raw = file.read(end - begin)
            if not LINEAR.match(name):
                tensors[name] = (dtype, shape, raw)
                continue
            for part, array in quantize(name, to_float32(raw, dtype, shape), args).items():
                kind = "F16" if array.dtype == np.float16 else "I32"
                tensors[name.removesuffix("weight") + part] = (kind, array.shape, array.tobytes())
    write_file(target, tensors)
    return list(tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--method", choices=("gptq", "awq"), required=True)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale; -1: a whole column")
    parser.add_argument("--asym", action="store_true", help="GPTQ with zero points (AWQ always has them)")
    args = parser.parse_args()
    if args.method == "awq" and (args.bits != 4 or args.group == -1):
        raise SystemExit("AWQ files are of 4 bits and have groups")
    args.out.mkdir(parents=True)
    files = sorted(args.source.glob("*.safetensors"))
    weight_map = {}
    for path in files:
        for name in convert_file(path, args.out / path.name, args):
            weight_map[name] = path.name
    for path in args.source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".index.json"):
            shutil.copy(path, args.out / path.name)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = json.loads((args.source / "config.json").read_text())
    config["quantization_config"] = statement(args)
    (args.out / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    main()
