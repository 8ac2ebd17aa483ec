#!/usr/bin/env python3
"""Writes a GPTQ or AWQ checkpoint of random weights at a model's true shapes, in shards.

    python3 tools/random_checkpoint.py benchmarks/models/qwen2-7b OUT --bits 4 --group 128

Needs numpy. MODEL is a directory with config.json of a Qwen2 or Llama model. The files are what quantize.py writes:
every linear layer of the decoder quantized, embedding and head BF16, no tokenizer. For measuring how checkpoints load;
--load-format dummy needs no files. A shard is written once it holds --shard-mib, and may pass it by a tensor.
"""

import argparse
import json
import pathlib

import numpy as np

from quantize import statement, write_file

BF16_ONE = 0x3F80
MIB = 1 << 20


def words(shape, random):
    return ("I32", shape, random.integers(-(2**31), 2**31, shape, np.int32).tobytes())


def bf16(shape, random):
    """Both signs, between 2^-7 and 2^-6."""
    return ("BF16", shape, (random.integers(0, 2**16, shape, np.uint16) & 0x807F | 0x3C00).tobytes())


def linear(n, k, args, random):
    """The tensors of an [n, k] layer."""
    per_word = 32 // args.bits
    groups = -(-k // args.group)
    zero = sum((2 ** (args.bits - 1) - (args.method == "gptq")) << at for at in range(0, 32, args.bits))
    scale = np.full((groups, n), 2 / (2**args.bits * np.sqrt(k)), np.float16)
    shape = (k // per_word, n) if args.method == "gptq" else (k, n // per_word)
    parts = {"qweight": words(shape, random),
             "qzeros": ("I32", (groups, n // per_word), np.full((groups, n // per_word), zero, np.uint32).tobytes()),
             "scales": ("F16", scale.shape, scale.tobytes())}
    if args.method == "gptq":
        parts["g_idx"] = ("I32", (k,), (np.arange(k) // args.group).astype(np.int32).tobytes())
    return parts


def tensors_of(config, args, random):
    """(name, (dtype, shape, bytes)) of the whole model, one layer after the other."""
    d, f, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or d // heads
    q, kv = heads * head_size, config.get("num_key_value_heads", heads) * head_size
    norm = ("BF16", (d,), np.full(d, BF16_ONE, np.uint16).tobytes())
    yield "model.embed_tokens.weight", bf16((vocab, d), random)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", norm
        for name, n, k in (("self_attn.q_proj", q, d), ("self_attn.k_proj", kv, d), ("self_attn.v_proj", kv, d),
                           ("self_attn.o_proj", d, q), ("mlp.gate_proj", f, d), ("mlp.up_proj", f, d),
                           ("mlp.down_proj", d, f)):
            for part, tensor in linear(n, k, args, random).items():
                yield f"{prefix}{name}.{part}", tensor
            if config["model_type"] == "qwen2" and name[-6] in "qkv":
                yield f"{prefix}{name}.bias", bf16((n,), random)
    yield "model.norm.weight", norm
    if not config.get("tie_word_embeddings", False):
        yield "lm_head.weight", bf16((vocab, d), random)


def write_shards(out, tensors, shard_bytes):
    weight_map, shard, held = {}, {}, 0

    def flush():
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        write_file(out / file, shard)
        weight_map.update(dict.fromkeys(shard, file))

    for name, tensor in tensors:
        shard[name] = tensor
        held += len(tensor[2])
        if held >= shard_bytes:
            flush()
            shard, held = {}, 0
    if shard:
        flush()
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--method", choices=("gptq", "awq"), default="gptq", help="[gptq]")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="[4]")
    parser.add_argument("--group", type=int, default=128, help="inputs that share a scale, at least 1 [128]")
    parser.add_argument("--layers", type=int, help="[the model's]")
    parser.add_argument("--shard-mib", type=int, default=1024, help="MiB of a shard [1024]")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    if config["model_type"] not in ("qwen2", "llama"):
        parser.error(f"{args.model}: model_type {config['model_type']}, needed qwen2 or llama")
    if args.group < 1:
        parser.error(f"--group {args.group}: at least 1")
    if args.method == "awq" and args.bits != 4:
        parser.error("AWQ files are of 4 bits")
    config["num_hidden_layers"] = args.layers or config["num_hidden_layers"]
    args.asym = False
    config["quantization_config"] = statement(args)
    args.out.mkdir(parents=True)
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    write_shards(args.out, tensors_of(config, args, np.random.default_rng(1)), args.shard_mib * MIB)


if __name__ == "__main__":
    main()
