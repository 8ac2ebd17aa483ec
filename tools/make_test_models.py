#!/usr/bin/env python3
"""Writes the small random checkpoints and reference numbers of tests/data/models.

Needs torch and transformers (made with 2.15 and 5.17.0). Run from the repository's root:

    python3 tools/make_test_models.py [NAME ...]

Each directory holds what transformers' save_pretrained writes, and golden.json: for a few prompts of
token ids, the greedy continuation (end-of-text ids do not stop it), its five best log-probabilities
per step, and the log-probability of each prompt token given those before it. The reference is the
eager model in fp32 on the CPU, loaded back from the files, so with weights rounded as stored.
rope_vectors.json holds transformers' rotary frequencies for a list of settings.
"""

import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "models"
REFERENCE = f"transformers {transformers.__version__} fp32 eager"
GREEDY_TOKENS = 24
PROMPT_TOKENS = (1, 5, 16, 33, 311)

# What each model is for is in its `about`. Every size is small enough to commit, and no two kinds
# of size (heads, layers, rows) of one model are equal where it can be helped.
MODELS = {
    "llama3-f16-sharded": dict(
        about="llama3 rotary scaling, untied, F16, two shards, config.json as transformers 4 writes it",
        seed=1, dtype=torch.float16, shards=2, spelling=4,
        config=transformers.LlamaConfig(
            vocab_size=320, hidden_size=128, intermediate_size=160, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
            rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=[1, 2],
            rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0,
                                 low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_max_position_embeddings=64))),
    "llama-odd-vocab-f32": dict(
        about="odd vocabulary, F32, 6 query heads on 2 kv heads, 52 units of feed-forward rows, tied",
        seed=2, dtype=torch.float32,
        config=transformers.LlamaConfig(
            vocab_size=1003, hidden_size=48, intermediate_size=416, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
            rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "qwen3-bf16": dict(
        about="query and key norms, head size 128 over hidden 80, tied, BF16",
        seed=3, dtype=torch.bfloat16,
        config=transformers.Qwen3Config(
            vocab_size=320, hidden_size=80, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=128, max_position_embeddings=512,
            rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen2-yarn-bf16": dict(
        about="yarn whose factor is not the ratio of the context lengths, untied, biases, BF16",
        seed=4, dtype=torch.bfloat16,
        config=transformers.Qwen2Config(
            vocab_size=256, hidden_size=128, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
            rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
            rope_parameters=dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
                                 original_max_position_embeddings=64))),
    "qwen2-mqa-7-layers-bf16": dict(
        about="7 layers for uneven stages, 6 query heads on one kv head, 11 units of feed-forward rows",
        seed=5, dtype=torch.bfloat16,
        config=transformers.Qwen2Config(
            vocab_size=320, hidden_size=64, intermediate_size=88, num_hidden_layers=7,
            num_attention_heads=6, num_key_value_heads=1, head_dim=32, max_position_embeddings=512,
            rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
}

ROPE_CASES = [
    dict(head_size=128, max_positions=4096, rope=dict(rope_type="default", rope_theta=10000.0)),
    dict(head_size=64, max_positions=32768, rope=dict(rope_type="default", rope_theta=1000000.0)),
    dict(head_size=32, max_positions=512, rope=dict(rope_type="default", rope_theta=500000.0)),
    dict(head_size=128, max_positions=131072,
         rope=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=8192)),
    dict(head_size=64, max_positions=131072,
         rope=dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=8192)),
    dict(head_size=32, max_positions=512,
         rope=dict(rope_type="llama3", rope_theta=10000.0, factor=3.0, low_freq_factor=1.5,
                   high_freq_factor=2.5, original_max_position_embeddings=64)),
    dict(head_size=128, max_positions=32768,
         rope=dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0,
                   original_max_position_embeddings=32768)),
    dict(head_size=64, max_positions=32768,
         rope=dict(rope_type="yarn", rope_theta=1000000.0, factor=2.5)),
    dict(head_size=32, max_positions=512,
         rope=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                   original_max_position_embeddings=64)),
    dict(head_size=128, max_positions=65536,
         rope=dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=24.0,
                   beta_slow=2.0, truncate=False, original_max_position_embeddings=4096)),
    dict(head_size=64, max_positions=65536,
         rope=dict(rope_type="yarn", rope_theta=10000.0, factor=40.0, mscale=1.0,
                   mscale_all_dim=0.707, original_max_position_embeddings=4096)),
    dict(head_size=64, max_positions=65536,
         rope=dict(rope_type="yarn", rope_theta=10000.0, factor=16.0, attention_factor=1.25,
                   original_max_position_embeddings=4096)),
    dict(head_size=64, max_positions=4096,
         rope=dict(rope_type="yarn", rope_theta=10000.0, factor=1.0,
                   original_max_position_embeddings=4096)),
]


def randomize(model, seed):
    """Random weights that spread the logits; norms and biases too, which would be 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            value = noise * (3.0 / math.sqrt(hidden))
        else:
            value = noise * (1.5 / math.sqrt(parameter.shape[1]))
        parameter.data.copy_(value)


def write_as_transformers_4(path):
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["transformers_version"] = "4.42.3"
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")


def split_shards(directory, shards):
    """Replaces model.safetensors by `shards` files of alternating tensors and their index."""
    whole = directory / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: files[i % shards] for i, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        save_file(part, directory / file, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def logprobs(model, ids):
    """[len(ids), vocab]"""
    return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0].float(), -1)


def golden_case(model, prompt):
    ids = list(prompt)
    top5 = []
    for _ in range(GREEDY_TOKENS):
        best = torch.topk(logprobs(model, ids)[-1], 5)
        top5.append([[i, round(v, 5)] for i, v in zip(best.indices.tolist(), best.values.tolist())])
        ids.append(top5[-1][0][0])
    given = logprobs(model, prompt)
    return {
        "prompt_ids": prompt,
        "greedy": ids[len(prompt):],
        "top5": top5,
        "prompt_logprobs": [None] + [round(given[i - 1, prompt[i]].item(), 5)
                                     for i in range(1, len(prompt))],
    }


def make_model(name, about, seed, dtype, config, shards=1, spelling=5):
    directory = OUT / name
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    config.architectures = None
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model, seed)
    model.to(dtype).save_pretrained(directory)
    if shards > 1:
        split_shards(directory, shards)
    if spelling == 4:
        write_as_transformers_4(directory / "config.json")

    reference = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(100 + seed)
    prompts = [torch.randint(0, config.vocab_size, (n,), generator=generator).tolist()
               for n in PROMPT_TOKENS]
    cases = [golden_case(reference, prompt) for prompt in prompts]
    golden = {"name": name, "about": about, "reference": REFERENCE, "cases": cases}
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")

    for file in directory.iterdir():
        file.chmod(0o644)  # safetensors' writer makes them private
    gaps = sorted(step[0][1] - step[1][1] for case in cases for step in case["top5"])
    files = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {files} bytes; greedy margins: least {gaps[0]:.4f}, "
          f"{sum(gap < 0.01 for gap in gaps)} of {len(gaps)} below 0.01, "
          f"median {gaps[len(gaps) // 2]:.2f}; distinct greedy ids "
          f"{[len(set(case['greedy'])) for case in cases]}")


def make_rope_vectors():
    cases = []
    for case in ROPE_CASES:
        heads = 4
        config = transformers.LlamaConfig(
            hidden_size=heads * case["head_size"], num_attention_heads=heads,
            max_position_embeddings=case["max_positions"], rope_parameters=dict(case["rope"]))
        kind = case["rope"]["rope_type"]
        compute = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
        inv_freq, scale = compute(config, torch.device("cpu"))
        cases.append({**case, "inv_freq": inv_freq.tolist(), "scale": scale})
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (OUT / "rope_vectors.json").write_text(
        f'{{"reference": "transformers {transformers.__version__} modeling_rope_utils",\n'
        f'"cases": [\n{lines}\n]}}\n')


def main():
    names = sys.argv[1:] or list(MODELS)
    for name in names:
        make_model(name, **MODELS[name])
    make_rope_vectors()


if __name__ == "__main__":
    main()
