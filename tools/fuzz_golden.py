#!/usr/bin/env python3
"""Random checkpoints, served by a CPU cluster and compared with transformers in fp32.

  fuzz_golden.py --count N [--seed S] [--only I] [--keep DIR] [--build-dir DIR]

Draws N small models: family, sizes, dtype, rotary scaling, tying, shards, the spelling of config.json,
the order of tensors in their files, end-of-text ids. Each is written with save_pretrained, loaded with
random --tp, --pp and step sizes, and checked:

  - greedy ids against generate() with the checkpoint's own generation_config.json
  - log-probabilities of the output, its five best, and of the prompt, against one forward pass: 1e-3
  - requests that run together, greedy and seeded, against the same requests alone: equal

One model in six has something that is not computed (a rotary type, a bias, a window, a broken file):
its load must end with an error that names it, and leave the cluster usable. So must a --tp that does
not divide the heads. Model I of seed S is always the same; --only I makes and checks that one.

Prints a line a model, with its settings when it fails; exits with 1 if one did. Needs torch and
transformers (written with 2.15 and 5.17.0) and a build. About a second a model on one core.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RANKS = 4
TOLERANCE = 1e-3   # of a log-probability, and of the margin below which two candidates may swap
NEW_TOKENS = 20
POSITIONS = 512
CONFIGS = {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "llama": "LlamaConfig"}

# What must be refused, and a word of the message.
REFUSED = {
    "linear": "linear", "dynamic": "dynamic", "longrope": "longrope", "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias", "window": "use_sliding_window", "layer_window": "sliding_attention",
    "activation": "hidden_act", "head_size": "head size", "partial": "partial_rotary_factor",
    "missing_tensor": "not in the checkpoint", "wrong_shape": "config.json needs", "extra_bias": "is none of",
    "other_head": "tie_word_embeddings",
    "truncated": "model", "heads": "split", "stages": "stages",
}


def draw_rope(rng, refused):
    """rope_parameters as transformers 5 has them."""
    rope = {"rope_type": "default", "rope_theta": rng.choice([10000.0, 500000.0, 1000000, 5003.5])}
    kind = refused or rng.choice(["default", "default", "llama3", "yarn", "yarn"])
    original = rng.choice([32, 64, 128, 500])
    if kind == "llama3":
        low = rng.choice([1.0, 1, 1.5])
        rope.update(rope_type=kind, factor=rng.choice([2.0, 8, 32.0]), low_freq_factor=low,
                    high_freq_factor=rng.choice([2.0, 4.0, 4]), original_max_position_embeddings=original)
    elif kind == "yarn":
        rope.update(rope_type=kind, factor=rng.choice([1.0, 2, 4.0, 40.0]),
                    original_max_position_embeddings=original)
        options = {"beta_fast": rng.choice([32, 16.0, 48]), "beta_slow": rng.choice([1, 2.0, 0.5]),
                   "truncate": rng.random() < 0.5}
        rope.update({key: value for key, value in options.items() if rng.random() < 0.3})
        scale = rng.choice(["rule", "given", "mscale", "mscale_only"])
        if scale == "given":
            rope["attention_factor"] = rng.choice([1.0, 0.8, 1.3])
        elif scale != "rule":
            rope["mscale"] = rng.choice([1.0, 0.707])
            rope.update({"mscale_all_dim": rng.choice([1.0, 0.5])} if scale == "mscale" else {})
    elif kind in ("linear", "dynamic"):
        rope.update(rope_type=kind, factor=2.0)
    elif kind == "longrope":
        rope.update(rope_type=kind, factor=2.0, original_max_position_embeddings=original)
    if kind in ("llama3", "yarn") and rng.random() < 0.15:
        del rope["original_max_position_embeddings"]
    return rope


def draw_sizes(rng, family, case):
    """Sizes of the model; the split is drawn so that it fits them unless it is to be refused."""
    tp = rng.choice([1, 1, 2, 4, 3])
    pp = rng.choice([n for n in (1, 2, 3, 4) if n * tp <= RANKS])
    kv_heads = rng.choice([1, 2, 3, 4, 6])
    choices = [h for h in range(kv_heads, 13, kv_heads) if h % tp == 0]
    if (kv_heads % tp and tp % kv_heads) or not choices:
        kv_heads, choices = tp, [tp, 2 * tp]
    heads = rng.choice(choices)
    head_size = rng.choice([32, 32, 64, 128])
    layers = rng.randrange(1, 8)
    if case["refused"] == "heads":
        tp, pp, heads, kv_heads = 4, 1, rng.choice([3, 5, 6]), 1
    elif case["refused"] == "stages":
        tp, pp, layers = 1, 4, rng.choice([1, 2, 3])
    elif case["refused"] == "head_size":
        head_size = rng.choice([16, 48, 80, 96, 256])
    pp = min(pp, layers) if case["refused"] != "stages" else pp
    explicit = family == "qwen3" or rng.random() < 0.4
    hidden = heads * head_size
    if explicit:
        units = rng.randrange(4, 24)
        hidden = 8 * units * (heads if family == "llama" else 1)
        hidden = max(8 * heads, hidden - hidden % (8 * heads)) if family == "llama" else hidden
        hidden = hidden if hidden <= 768 else 8 * heads
    case.update(tp=tp, pp=pp)
    sizes = dict(num_attention_heads=heads, num_key_value_heads=kv_heads, num_hidden_layers=layers,
                 hidden_size=hidden, intermediate_size=8 * rng.choice([4, 5, 11, 13, 20, 27, 52]),
                 vocab_size=rng.choice([256, 301, 320, 1003, 1009, 2049]))
    return sizes | ({"head_dim": head_size} if explicit else {})


def draw(seed, index):
    """The settings of model `index`: plain data, printed when it fails."""
    rng = random.Random(f"{seed}:{index}")
    family = rng.choice(list(CONFIGS))
    refused = rng.choice(list(REFUSED)) if rng.random() < 1 / 6 else None
    if refused == "attention_bias" and family == "qwen2" or refused == "mlp_bias":
        family = "llama"
    if refused in ("window", "layer_window") and family == "llama":
        family = "qwen2"
    case = {"index": index, "family": family, "refused": refused}
    config = draw_sizes(rng, family, case)
    config.update(max_position_embeddings=POSITIONS, rms_norm_eps=rng.choice([1e-6, 1e-5, 1e-3]),
                  tie_word_embeddings=rng.random() < 0.5, bos_token_id=rng.choice([None, 0, 3]),
                  eos_token_id=rng.choice([None, 2, [1, 2]]),
                  rope_parameters=draw_rope(rng, refused if refused in ("linear", "dynamic", "longrope") else None))
    if refused in ("attention_bias", "mlp_bias"):
        config[refused] = True
    if refused == "other_head":
        config["tie_word_embeddings"] = True
    if refused == "window":
        config.update(use_sliding_window=True, sliding_window=16, max_window_layers=0)
    if refused == "activation":
        config["hidden_act"] = "gelu"
    if refused == "partial":
        config["rope_parameters"]["partial_rotary_factor"] = 0.5
    case.update(
        config=config, dtype=rng.choice(["float32", "float16", "bfloat16"]), gain=rng.choice([1.0, 1.5, 2.0]),
        spelling=rng.choice([4, 4, 5]), legacy_type=rng.random() < 0.5, layer_types=rng.random() < 0.5,
        extra_keys=rng.random() < 0.5, drop_nulls=rng.random() < 0.5, no_dtype=rng.random() < 0.1,
        shard=rng.choice([None, None, "20KB", "100KB", "500KB"]), shuffle=rng.random() < 0.4,
        f32_norms=rng.random() < 0.15, inv_freq=rng.random() < 0.2, metadata=rng.random() < 0.5,
        head_copy=rng.random() < 0.3, repetition=rng.choice([None, None, None, 1.1]),
        outer_original=rng.choice([None, None, None, 96]), sample=rng.random() < 0.3, eos_at=rng.choice([None, 3, 7]),
        prompts=[rng.choice([1, 2, 3, 15, 16, 17, 33, 64, 65, 130, 300]) for _ in range(3)],
        load=["--max-sequences", str(rng.choice([2, 5, 8])), "--block-size", str(rng.choice([16, 32, 64])),
              "--max-step-tokens", str(rng.choice([16, 48, 200, 512]))])
    return case


def randomize(model, seed, gain):
    """Weights that spread the logits; norms and biases too, which would be 1 and 0."""
    import torch
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        else:
            wide = 2.0 if "embed_tokens" in name or "lm_head" in name else gain
            value = noise * (wide / math.sqrt(parameter.shape[1]))
        parameter.data.copy_(value)


def rewrite_config(path, case, rng):
    """config.json in the case's spelling; transformers reads the result too."""
    config = json.loads(path.read_text())
    rope = config["rope_parameters"]
    # save_pretrained fills in what was left out.
    config["rope_parameters"] = rope = {k: v for k, v in rope.items() if k in case["config"]["rope_parameters"]}
    if case["spelling"] == 4:
        config["torch_dtype"] = config.pop("dtype")
        config["rope_theta"] = config.pop("rope_parameters").pop("rope_theta")
        if case["legacy_type"]:
            rope["type"] = rope.pop("rope_type")
        plain = rope.get("type", rope.get("rope_type")) == "default" and len(rope) == 1
        config["rope_scaling"] = None if plain else rope
        config["transformers_version"] = "4.42.3"
    if case["outer_original"] and case["config"]["rope_parameters"]["rope_type"] in ("llama3", "yarn"):
        config["original_max_position_embeddings"] = case["outer_original"]
    if not case["layer_types"]:
        config.pop("layer_types", None)
    elif case["family"] == "llama" and case["spelling"] == 5:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    if case["refused"] == "layer_window":
        config["layer_types"] = ["sliding_attention"] + ["full_attention"] * (config["num_hidden_layers"] - 1)
    if case["no_dtype"]:
        config.pop("dtype", None), config.pop("torch_dtype", None)
    if case["extra_keys"]:
        config.update(_name_or_path="/a/b", custom={"a": [1, {"b": None}], "c": 1e300},
                      pretraining_tp=1, attn_implementation="sdpa")
    if case["drop_nulls"]:
        config = {key: value for key, value in config.items() if value is not None}
    items = list(config.items())
    rng.shuffle(items)
    path.write_text(json.dumps(dict(items), indent=rng.choice([None, 2])))


def write_safetensors(path, tensors, rng, metadata):
    """A valid file with the tensors in random order, a header in another, and no padding."""
    import torch
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    order = list(tensors)
    rng.shuffle(order)
    header, blobs, at = {}, [], 0
    for name in order:
        tensor = tensors[name].contiguous()
        blobs.append(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + len(blobs[-1])]}
        at += len(blobs[-1])
    rng.shuffle(order)
    entries = {"__metadata__": {"format": "pt", "é\n": "\u2028"}} if metadata else {}
    text = json.dumps(entries | {name: header[name] for name in order}).encode() + b" " * rng.randrange(8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def change_tensors(directory, case, rng):
    """What other writers do to the weight files, and what breaks them."""
    import torch
    from safetensors.torch import load_file
    refused = case["refused"]
    files = sorted(directory.glob("*.safetensors"))
    for file in files:
        tensors = load_file(file)
        layers = [name for name in tensors if name.endswith("down_proj.weight")]
        if case["f32_norms"]:
            tensors |= {n: t.float() for n, t in tensors.items() if n.endswith("norm.weight")}
        if len(files) == 1 and case["inv_freq"]:
            tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(16).float()
        if len(files) == 1 and case["head_copy"] and case["config"]["tie_word_embeddings"]:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        if len(files) == 1 and refused == "missing_tensor":
            del tensors[layers[0]]
        if len(files) == 1 and refused == "wrong_shape":
            tensors[layers[0]] = tensors[layers[0]][:, 8:]
        if len(files) == 1 and refused == "extra_bias":
            tensors["model.layers.0.self_attn.o_proj.bias"] = torch.zeros(case["config"]["hidden_size"])
        if len(files) == 1 and refused == "other_head":
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
        write_safetensors(file, tensors, rng, case["metadata"])
    if refused == "truncated":
        os.truncate(files[-1], files[-1].stat().st_size - 2)


def write_generation_config(directory, case, greedy):
    """Several ends of text, one of which the greedy answer runs into at `eos_at`, if it is told to."""
    ids = case["config"]["eos_token_id"]
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if case["eos_at"] is not None:
        ids = [i for i in ids if i not in greedy] + [greedy[case["eos_at"]], case["config"]["vocab_size"] - 1]
    config = {"_from_model_config": True, "bos_token_id": None, "eos_token_id": ids or None,
              "transformers_version": "4.42.3"}
    if case["repetition"]:
        config["repetition_penalty"] = case["repetition"]
    if case["sample"]:
        config.update(do_sample=True, temperature=0.7, top_k=20, top_p=0.8)
    (directory / "generation_config.json").write_text(json.dumps(config))


def make(case, seed, directory):
    """Writes the checkpoint; returns the reference model (None if it is to be refused) and prompts."""
    import torch
    import transformers
    rng = random.Random(f"{seed}:{case['index']}:files")
    settings = json.loads(json.dumps(case["config"]))
    if case["refused"] == "longrope":
        half = settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"]) // 2
        settings["rope_parameters"].update(long_factor=[2.0] * half, short_factor=[1.0] * half)
        case["config"]["rope_parameters"] = settings["rope_parameters"]
    config = getattr(transformers, CONFIGS[case["family"]])(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model, rng.randrange(1 << 30), case["gain"])
    shard = {"max_shard_size": case["shard"]} if case["shard"] and not case["refused"] else {}
    model.to(getattr(torch, case["dtype"])).save_pretrained(directory, **shard)
    rewrite_config(directory / "config.json", case, rng)
    if case["shuffle"] or case["refused"]:
        change_tensors(directory, case, rng)
    prompts = [[rng.randrange(settings["vocab_size"]) for _ in range(n)] for n in case["prompts"]]
    if case["refused"]:
        return None, prompts
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    plain = transformers.GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    ids = torch.tensor([prompts[0]])
    greedy = reference.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)[0, ids.shape[1]:]
    write_generation_config(directory, case, greedy.tolist())
    reference.generation_config = transformers.GenerationConfig.from_pretrained(directory)
    return reference, prompts


def tessera(*arguments):
    """Standard output of the command; RuntimeError with its standard error when it does not end with 0."""
    done = subprocess.run(["tessera", *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().split("\n")[-1])
    return done.stdout


def generate(prompt, *flags):
    return json.loads(tessera("generate", "--model", "m", "--json", "--max-tokens", str(NEW_TOKENS),
                              "--prompt-ids", ",".join(map(str, prompt)), *flags))


class Comparison:
    """Differences from the reference, and what was found wrong."""

    def __init__(self):
        self.worst = {"output": 0.0, "top": 0.0, "prompt": 0.0}
        self.swaps = 0     # ids that differ where two candidates are closer than TOLERANCE
        self.wrong = []

    def number(self, kind, ours, theirs, where):
        error = abs(ours - theirs) if ours is not None else math.inf
        self.worst[kind] = max(self.worst[kind], error)
        if not error <= TOLERANCE:
            self.wrong.append(f"{kind} log-probability at {where}: {ours}, transformers {theirs:.6f}")

    def greedy(self, reference, prompt, answer):
        """Ids and the reason of the end, against generate() with the checkpoint's generation_config."""
        import torch
        given = torch.tensor([prompt])
        # Without a mask, ids that equal pad_token_id would be left out.
        theirs = reference.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=NEW_TOKENS, do_sample=False,
                                    pad_token_id=0, return_dict_in_generate=True, output_scores=True)
        ids = theirs.sequences[0, len(prompt):].tolist()
        for i, (mine, best) in enumerate(zip(answer["tokens"] + [None] * NEW_TOKENS, ids)):
            if mine == best:
                continue
            if mine is not None and theirs.scores[i][0, best] - theirs.scores[i][0, mine] < TOLERANCE:
                self.swaps += 1
                return
            self.wrong.append(f"prompt of {len(prompt)}: greedy {answer['tokens']}, transformers {ids}")
            return
        if len(answer["tokens"]) != len(ids):
            self.wrong.append(f"prompt of {len(prompt)}: {len(answer['tokens'])} ids, transformers {len(ids)}")
        eos = reference.generation_config.eos_token_id
        ended = ids[-1] in (eos if isinstance(eos, list) else [eos])
        if answer["finish_reason"] != ("stop" if ended else "length"):
            self.wrong.append(f"prompt of {len(prompt)}: finish_reason {answer['finish_reason']} after {ids}")

    def logprobs(self, reference, prompt, answer):
        """Teacher-forced over prompt and answer in one pass."""
        import torch
        ids = prompt + answer["tokens"]
        with torch.no_grad():
            rows = torch.log_softmax(reference(torch.tensor([ids]), use_cache=False).logits[0].float(), -1)
        given = answer["prompt_logprobs"]
        if len(given) != len(prompt) or given[0] is not None:
            self.wrong.append(f"{len(given)} prompt log-probabilities for {len(prompt)} tokens")
        for i in range(1, len(prompt)):
            self.number("prompt", given[i], rows[i - 1, prompt[i]].item(), f"prompt token {i}")
        for i, step in enumerate(answer["logprobs"]):
            row = rows[len(prompt) + i - 1]
            self.number("output", step["logprob"], row[step["token"]].item(), f"token {i}")
            best = torch.topk(row, 5).values.tolist()
            if len({pair[0] for pair in step["top"]}) != 5 or step["token"] != answer["tokens"][i]:
                self.wrong.append(f"token {i}: {step}")
            for (top, value), theirs in zip(step["top"], best):
                self.number("top", value, row[top].item(), f"token {i}, candidate {top}")
                self.number("top", value, theirs, f"rank of token {i}, candidate {top}")

    def together(self, prompts, rng):
        """Requests of all kinds at once equal the same requests alone."""
        styles = [["--temperature", "0"], ["--temperature", "0.8", "--seed", "7"],
                  ["--temperature", "1.5", "--seed", "8", "--top-k", "9", "-n", "3"],
                  ["--temperature", "1", "--seed", "9", "--top-p", "0.7", "--repetition-penalty", "1.3"],
                  ["--temperature", "0", "--presence-penalty", "0.5", "--frequency-penalty", "0.3"],
                  ["--temperature", "2", "--seed", "10", "--min-p", "0.05", "--ignore-eos"]]
        work = [(rng.choice(prompts), style) for style in styles]
        pick = lambda answer: [c["tokens"] for c in answer.get("choices", [answer])]
        alone = [pick(generate(prompt, *style)) for prompt, style in work]
        with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
            joint = list(pool.map(lambda w: pick(generate(w[0], *w[1])), work))
        for (prompt, style), one, many in zip(work, alone, joint):
            if one != many:
                self.wrong.append(f"prompt of {len(prompt)} with {style}: {one} alone, {many} among others")


def load(case, directory):
    tessera("load", "--model", f"m={directory}", "--tp", str(case["tp"]), "--pp", str(case["pp"]), *case["load"])


def check_refused(case, directory):
    """What is wrong with the refusal."""
    try:
        load(case, directory)
    except RuntimeError as error:
        good = REFUSED[case["refused"]] in str(error) and "INTERNAL" not in str(error)
        return ([] if good else [f"refused with: {error}"]), str(error)
    tessera("unload", "--model", "m")
    return [f"{case['refused']} was loaded"], ""


def check(case, seed, directory):
    """(what is wrong, a line about it, Comparison or None)"""
    reference, prompts = make(case, seed, directory)
    if case["refused"]:
        wrong, error = check_refused(case, directory)
        return wrong, f"refused: {error[:150]}", None
    result = Comparison()
    try:
        load(case, directory)
    except RuntimeError as error:
        return [f"load: {error}"], "", result
    try:
        for prompt in prompts:
            result.greedy(reference, prompt, generate(prompt, "--temperature", "0"))
            answer = generate(prompt, "--temperature", "0", "--ignore-eos", "--logprobs", "5", "--prompt-logprobs")
            result.logprobs(reference, prompt, answer)
        result.together(prompts, random.Random(f"{seed}:{case['index']}:together"))
    except RuntimeError as error:
        result.wrong.append(f"generate: {error}")
    tessera("unload", "--model", "m")
    worst = ", ".join(f"{kind} {error:.1e}" for kind, error in result.worst.items())
    return result.wrong, f"worst {worst}" + (f"; {result.swaps} swaps" if result.swaps else ""), result


def run(arguments):
    """Inside the cluster."""
    import torch
    import transformers
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    parent = pathlib.Path(arguments.keep or tempfile.mkdtemp(prefix="fuzz_golden."))
    worst, failed, compared = {}, [], 0
    indices = range(arguments.count) if arguments.only is None else [arguments.only]
    for index in indices:
        case = draw(arguments.seed, index)
        directory = parent / f"model{index}"
        shutil.rmtree(directory, ignore_errors=True)
        wrong, line, result = check(case, arguments.seed, directory)
        print(f"{'FAILED' if wrong else 'ok':6} {index} {case['family']} tp {case['tp']} pp {case['pp']} "
              f"{case['dtype']}: {line}", flush=True)
        compared += result is not None
        for kind, error in (result.worst if result else {}).items():
            worst[kind] = max(worst.get(kind, 0.0), error)
        if wrong:
            failed.append(index)
            print("\n".join(f"    {text}" for text in wrong[:5]) + f"\n    {json.dumps(case)}", flush=True)
        if not arguments.keep:
            shutil.rmtree(directory)
    print(f"seed {arguments.seed}: {compared} models compared, {len(indices) - compared} refused, failed: {failed or 'none'}; "
          f"worst errors {({kind: f'{error:.1e}' for kind, error in worst.items()})}")
    if not arguments.keep:
        shutil.rmtree(parent)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="models [20]")
    parser.add_argument("--seed", type=int, default=1, help="[1]")
    parser.add_argument("--only", type=int, help="one model, by its number")
    parser.add_argument("--keep", help="write the checkpoints there and keep them")
    parser.add_argument("--build-dir", help="where the programs were built [launch/local.sh's choice]")
    arguments = parser.parse_args()
    if "TESSERA_COORDINATOR" in os.environ:
        return run(arguments)
    build = ["--build-dir", arguments.build_dir] if arguments.build_dir else []
    return subprocess.run([ROOT / "launch/local.sh", "--ranks", str(RANKS), "--backend", "cpu", "--threads", "1", *build,
                           "--", sys.executable, *sys.argv]).returncode


if __name__ == "__main__":
    sys.exit(main())
