#!/usr/bin/env python3
"""Writes small quantized checkpoints with the real quantizers, for tests/data/models.

Each model below names a base (a small random model, or the trained tests/data/tiny-qwen2), the
quantizer that makes it, and its options. The quantizers need different versions of transformers, so
each lives in an environment of its own: run this under each one's Python in turn, and it makes the
models whose quantizer can be imported there.

    PY_GPTQ/bin/python  tools/make_quantized_models.py --work DIR    # gptqmodel 7.7.0
    PY_ROUND/bin/python tools/make_quantized_models.py --work DIR    # auto-round 0.16.1
    PY_AWQ/bin/python   tools/make_quantized_models.py --work DIR    # autoawq 0.2.9, auto-gptq 0.7.1
    python3 tools/quant_reference.py DIR/NAME ...                    # writes golden.json
    python3 tools/make_quantized_models.py --work DIR --install      # copies those that are kept

All of it runs on the CPU and needs no network: calibration is on random token ids, or on text that
the trained base itself samples. made_by.json in each directory says what made it; it and the
tokenizer are left behind when a model is installed into tests/data/models.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "data" / "models"
TRAINED = ROOT / "tests" / "data" / "tiny-qwen2"

# The import name of each quantizer's package.
MODULES = {"gptqmodel": "gptqmodel", "auto-round": "auto_round", "autoawq": "awq",
           "auto-gptq": "auto_gptq"}
CALIBRATION_ROWS = 24
CALIBRATION_LENGTH = 128

# Random bases, in the spelling of transformers 4 which every quantizer reads. Row and column counts
# are multiples of 32, as the packers require; 416 = 13 * 32 and 352 = 11 * 32 make groups that do
# not divide evenly over two ranks.
LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)
BASES = {
    "llama3": dict(
        seed=31, dtype="float16", kind="llama", architecture="LlamaForCausalLM",
        vocab_size=320, hidden_size=96, intermediate_size=416, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, rms_norm_eps=1e-5,
        tie_word_embeddings=False, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "qwen3": dict(
        seed=32, dtype="bfloat16", kind="qwen3", architecture="Qwen3ForCausalLM",
        vocab_size=320, hidden_size=128, intermediate_size=352, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-6,
        tie_word_embeddings=True, rope_theta=1000000.0),
    "qwen2": dict(
        seed=33, dtype="float16", kind="qwen2", architecture="Qwen2ForCausalLM",
        vocab_size=320, hidden_size=256, intermediate_size=384, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, rms_norm_eps=1e-6,
        tie_word_embeddings=False, rope_theta=1000000.0),
}


def gptq(base, about, bits=4, group_size=32, sym=True, desc_act=False, kept=False, post=None, **options):
    return dict(by="gptqmodel", base=base, about=about, kept=kept, post=post,
                options=dict(bits=bits, group_size=group_size, sym=sym, desc_act=desc_act, **options))


def awq(base, about, group_size=32, kept=False, **options):
    return dict(by="autoawq", base=base, about=about, kept=kept,
                options=dict(q_group_size=group_size, w_bit=4, zero_point=True, version="GEMM", **options))


def auto_round(base, about, format, bits=4, group_size=32, sym=True, layers=None, kept=False):
    return dict(by="auto-round", base=base, about=about, kept=kept,
                options=dict(format=format, bits=bits, group_size=group_size, sym=sym, layers=layers or {}))


def auto_gptq(base, about, bits=4, group_size=32, sym=True, desc_act=False, kept=False, **options):
    return dict(by="auto-gptq", base=base, about=about, kept=kept,
                options=dict(bits=bits, group_size=group_size, sym=sym, desc_act=desc_act, **options))


ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SKIP_V_AND_LAYER_1_DOWN = {r"-:.*v_proj$": {}, r"-:model\.layers\.1\.mlp\.down_proj$": {}}
MIXED_GPTQ = {
    r"-:.*\.0\..*o_proj": {},
    r"+:.*\.1\..*(gate|up|down)_proj": {"bits": 8, "group_size": -1},
    r".*\.0\..*down_proj": {"group_size": 32},
}
ACT_ORDER_IN_PARTS = {r".*v_proj": {"desc_act": False}, r".*up_proj": {"group_size": 64}}
MIXED_ROUND = {
    "model.layers.0.self_attn.v_proj": {"bits": 8, "group_size": 32},
    "model.layers.0.mlp.down_proj": {"bits": 16},
    "model.layers.1.self_attn.o_proj": {"bits": 16},
    "model.layers.1.mlp.down_proj": {"bits": 8, "group_size": -1},
    "model.layers.0.self_attn.o_proj": {"group_size": 64},
}

MODELS = {
    # GPTQModel: what is kept first, then a matrix of options for use by hand.
    "gptq-int4-g128-tiny": gptq("tiny", "the trained model", group_size=128, kept=True),
    "gptq-int4-asym-act-g32-llama3": gptq(
        "llama3", "true g_idx, 13 groups over the ranks, untied", sym=False, desc_act=True, kept=True),
    "gptq-int8-column-qwen3": gptq(
        "qwen3", "one group a column, BF16", bits=8, group_size=-1, act_group_aware=False, kept=True),
    "gptq-v2-int4-asym-act-g32-qwen3": gptq(
        "qwen3", "v2 zero points, true g_idx, 11 groups over the ranks", sym=False, desc_act=True,
        format="gptq_v2", kept=True),
    "gptq-int4-act-g32-qwen3": gptq(
        "qwen3", "true g_idx, 11 groups over the ranks; stated in quantize_config.json alone, as old AutoGPTQ left it",
        desc_act=True, kept=True, post="only_quantize_config"),
    "gptq-int4-g32-llama3": gptq("llama3", "plain; stated in config.json alone", post="only_config"),
    "gptq-int4-g64-qwen2": gptq("qwen2", "biases", group_size=64),
    "gptq-int4-g128-qwen2": gptq("qwen2", "3 groups over the ranks, biases", group_size=128),
    "gptq-int4-column-qwen2": gptq("qwen2", "one group a column", group_size=-1, act_group_aware=False),
    "gptq-int4-column-act-qwen2": gptq("qwen2", "act-order without groups", group_size=-1, desc_act=True),
    "gptq-int4-asym-g64-qwen2": gptq("qwen2", "v1 zero points", group_size=64, sym=False),
    "gptq-int4-asym-g128-tiny": gptq("tiny", "v1 zero points", group_size=128, sym=False),
    "gptq-int4-asym-act-g128-tiny": gptq("tiny", "v1, true g_idx", group_size=128, sym=False, desc_act=True),
    "gptq-int4-act-static-g32-llama3": gptq(
        "llama3", "act-order in static groups", desc_act=True, static_groups=True),
    "gptq-int4-act-some-llama3": gptq(
        "llama3", "true g_idx, but v_proj in plain order and up_proj in groups of 64: q, k, v disagree",
        desc_act=True, dynamic=ACT_ORDER_IN_PARTS),
    "gptq-int4-act-ragged-g128-llama3": gptq(
        "llama3", "true g_idx, 416 columns in groups of 128: the last has 32", group_size=128, desc_act=True),
    "gptq-bf16-int4-g32-llama3": gptq("llama3", "a BF16 model, scales F16", dtype="bfloat16"),
    "gptq-int4-plain-order-g32-qwen3": gptq("qwen3", "act_group_aware off", act_group_aware=False),
    "gptq-v2-int4-g32-llama3": gptq("llama3", "v2, symmetric", format="gptq_v2"),
    "gptq-v2-int8-asym-g32-llama3": gptq("llama3", "v2", bits=8, sym=False, format="gptq_v2"),
    "gptq-int8-g64-qwen2": gptq("qwen2", "8 bits", bits=8, group_size=64),
    "gptq-int8-asym-act-g32-llama3": gptq("llama3", "8 bits, true g_idx", bits=8, sym=False, desc_act=True),
    "gptq-int3-g32-qwen3": gptq("qwen3", "3 bits", bits=3),
    "gptq-int3-asym-act-g32-llama3": gptq("llama3", "3 bits, true g_idx", bits=3, sym=False, desc_act=True),
    "gptq-int2-g32-qwen3": gptq("qwen3", "2 bits", bits=2),
    "gptq-int2-asym-g32-llama3": gptq("llama3", "2 bits", bits=2, sym=False),
    "gptq-dynamic-skip-llama3": gptq(
        "llama3", "v_proj and one down_proj left dense", dynamic=SKIP_V_AND_LAYER_1_DOWN),
    "gptq-dynamic-mixed-qwen2": gptq(
        "qwen2", "4 and 8 bits, three group sizes, dense o_proj", group_size=64, act_group_aware=False,
        dynamic=MIXED_GPTQ),
    "gptq-lm-head-llama3": gptq("llama3", "lm_head quantized too", lm_head=True),
    "gptq-ragged-g128-llama3": gptq(
        "llama3", "416 columns in groups of 128: the last has 32", group_size=128, act_group_aware=False),

    # AutoAWQ.
    "awq-int4-g32-llama3": awq("llama3", "13 groups over the ranks", kept=True),
    "awq-int4-g64-qwen2": awq("qwen2", "biases", group_size=64),
    "awq-int4-g128-qwen2": awq("qwen2", "3 groups over the ranks, biases", group_size=128),
    "awq-int4-g128-tiny": awq("tiny", "the trained model", group_size=128),
    "awq-int4-skip-g32-qwen3": awq(
        "qwen3", "v_proj and o_proj left dense", modules_to_not_convert=["v_proj", "o_proj"]),

    # auto-round: what its own container and its two exports look like.
    "round-own-int4-asym-g32-qwen3": auto_round(
        "qwen3", "own packing with g_idx", "auto_round:gptqmodel", sym=False),
    "round-mixed-llama3": auto_round(
        "llama3", "negative scales, 4 and 8 bits and dense layers by extra_config", "auto_round",
        layers=MIXED_ROUND, kept=True),
    "round-mixed-asym-llama3": auto_round(
        "llama3", "own packing without g_idx, 4 and 8 bits and dense layers by extra_config", "auto_round",
        sym=False, layers=MIXED_ROUND, kept=True),
    "round-sym-g128-tiny": auto_round("tiny", "the trained model", "auto_round", group_size=128),
    "round-asym-g64-qwen2": auto_round(
        "qwen2", "AWQ in auto-round's container", "auto_round", group_size=64, sym=False),
    "round-int8-asym-g32-llama3": auto_round("llama3", "8 bits", "auto_round", bits=8, sym=False),
    "round-int3-sym-g32-qwen3": auto_round("qwen3", "3 bits", "auto_round", bits=3),
    "round-int2-asym-g32-llama3": auto_round("llama3", "2 bits", "auto_round", bits=2, sym=False),
    "round-to-gptq-sym-g32-llama3": auto_round("llama3", "exported as GPTQ", "auto_gptq"),
    "round-to-gptq-asym-g64-qwen2": auto_round("qwen2", "exported as GPTQ", "auto_gptq", group_size=64, sym=False),
    "round-to-gptq-mixed-llama3": auto_round("llama3", "exported as GPTQ", "auto_gptq", layers=MIXED_ROUND),
    "round-to-awq-sym-g32-llama3": auto_round("llama3", "exported as AWQ", "auto_awq"),
    "round-to-awq-asym-g32-qwen3": auto_round("qwen3", "exported as AWQ", "auto_awq", sym=False),

    # AutoGPTQ, the old quantizer of most published checkpoints.
    "autogptq-int4-g32-llama3": auto_gptq("llama3", "zero biases everywhere, a file name of its own", kept=True),
    "autogptq-int4-asym-act-g32-llama3": auto_gptq("llama3", "true g_idx", sym=False, desc_act=True),
    "autogptq-int4-act-static-g32-llama3": auto_gptq(
        "llama3", "act-order in static groups", desc_act=True, static_groups=True),
    "autogptq-int8-column-qwen2": auto_gptq("qwen2", "one group a column", bits=8, group_size=-1),
    "autogptq-int3-g32-qwen2": auto_gptq("qwen2", "3 bits", bits=3),
    "autogptq-int4-ragged-g128-llama3": auto_gptq(
        "llama3", "416 columns in groups of 128: the last has 32", group_size=128),
}


def randomize(model, seed):
    """As make_test_models does, with some rows made extreme for the quantizers: of one sign, so that an
    asymmetric zero point is 0 or the largest, and all zero, as in models padded to a convenient width."""
    import make_test_models

    make_test_models.randomize(model, seed)
    for name, parameter in model.named_parameters():
        if not name.endswith("_proj.weight"):
            continue
        value = parameter.data
        value[5::64] = value[5::64].abs()
        value[10::64] = -value[10::64].abs()
        if "gate_proj" in name or "up_proj" in name:
            value[3::64] = 0.0


def write_word_tokenizer(directory, size):
    """GPTQModel wants a tokenizer, though calibration is on ids: one word an id."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t2"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="t0", eos_token="t1", unk_token="t2", pad_token="t1")
    tokenizer.save_pretrained(directory)


def make_random_base(directory, seed, dtype, kind, architecture, **settings):
    import torch
    import transformers

    config = dict(settings, model_type=kind, architectures=[architecture], torch_dtype=dtype,
                  hidden_act="silu", max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
                  transformers_version="4.42.3")
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(directory), dtype=torch.float32)
    randomize(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    write_word_tokenizer(directory, config["vocab_size"])
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config["vocab_size"], (CALIBRATION_ROWS, CALIBRATION_LENGTH),
                         generator=generator).tolist()


def make_trained_base(directory):
    import torch
    import transformers

    for file in TRAINED.iterdir():
        if file.name != "golden.json":
            shutil.copy(file, directory)
    config = json.loads((directory / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # Calibration text: what the model itself says after one token of each kind.
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    torch.manual_seed(7)
    start = torch.randint(0, 4000, (CALIBRATION_ROWS, 1))
    return model.generate(start, do_sample=True, top_k=50, eos_token_id=4095, pad_token_id=4093,
                          max_length=CALIBRATION_LENGTH, min_length=CALIBRATION_LENGTH).tolist()


def ensure_base(work, name):
    """The base's directory; made on first use, with its calibration ids in calibration.json."""
    directory = work / "bases" / name
    ids_file = directory / "calibration.json"
    if ids_file.exists():
        return directory, json.loads(ids_file.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    ids = make_trained_base(directory) if name == "tiny" else make_random_base(directory, **BASES[name])
    ids_file.write_text(json.dumps(ids) + "\n")
    return directory, ids


def stored_type(base):
    """On the CPU the quantizers would otherwise load, and then store, BF16 whatever the base is."""
    import torch

    return getattr(torch, json.loads((base / "config.json").read_text())["torch_dtype"])


def run_gptqmodel(base, ids, out, options):
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    settings = dict(options)
    stored = getattr(torch, settings.pop("dtype")) if "dtype" in settings else stored_type(base)
    model = GPTQModel.load(str(base), QuantizeConfig(offload_to_disk=False, **settings), device="cpu", dtype=stored)
    rows = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
            for row in ids]
    model.quantize(rows, batch_size=4)
    model.save(str(out))


def run_autoawq(base, ids, out, options):
    from awq import AutoAWQForCausalLM

    model = AutoAWQForCausalLM.from_pretrained(str(base), device_map="cpu")
    # Its search for clips asserts that every row count is a multiple of 64.
    rows = [module.out_features for module in model.model.model.layers.modules() if hasattr(module, "out_features")]
    model.quantize(None, quant_config=dict(options), calib_data=ids, max_calib_seq_len=CALIBRATION_LENGTH,
                   apply_clip=all(row % 64 == 0 for row in rows))
    model.save_quantized(str(out))


def run_auto_round(base, ids, out, options):
    import torch
    import transformers
    from auto_round import AutoRound

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    scheme = {key: options[key] for key in ("bits", "group_size", "sym")}
    rounder = AutoRound(
        model, tokenizer=transformers.AutoTokenizer.from_pretrained(base),
        scheme=dict(scheme, data_type="int", act_bits=16), layer_config=options["layers"],
        dataset=[torch.tensor([row]) for row in ids], iters=20,
        seqlen=CALIBRATION_LENGTH, nsamples=len(ids), batch_size=4, device_map="cpu",
        enable_torch_compile=False)
    rounder.quantize_and_save(str(out), format=options["format"])
    for inner in [path for path in out.iterdir() if path.is_dir()]:  # it adds a folder of its own
        for file in inner.iterdir():
            file.rename(out / file.name)
        inner.rmdir()


def run_auto_gptq(base, ids, out, options):
    """AutoGPTQ refuses to quantize without CUDA: its model class is built directly, and its device is the CPU."""
    import torch
    import transformers
    from auto_gptq import BaseQuantizeConfig
    from auto_gptq.modeling import _base
    from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP

    _base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda *_: None
    dense = transformers.AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float16)
    dense.seqlen = dense.config.max_position_embeddings
    kind = GPTQ_CAUSAL_LM_MODEL_MAP[dense.config.model_type]
    model = kind(dense, False, BaseQuantizeConfig(**options))
    rows = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
            for row in ids]
    model.quantize(rows, batch_size=1, cache_examples_on_gpu=False)
    model.save_quantized(str(out), use_safetensors=True)


RUN = {"gptqmodel": run_gptqmodel, "autoawq": run_autoawq, "auto-round": run_auto_round,
       "auto-gptq": run_auto_gptq}


def edit_statement(out, post):
    """Leaves the statement of the scheme in one place only; the quantizer wrote both."""
    if post == "only_config":
        (out / "quantize_config.json").unlink()
    elif post == "only_quantize_config":
        path = out / "config.json"
        config = json.loads(path.read_text())
        del config["quantization_config"]
        path.write_text(json.dumps(config, indent=2) + "\n")


def make_model(work, name):
    """Quantizes one model in this process."""
    import torch

    torch.set_num_threads(1)
    spec = MODELS[name]
    base, ids = ensure_base(work, spec["base"])
    out = work / name
    shutil.rmtree(out, ignore_errors=True)
    RUN[spec["by"]](base, ids, out, spec["options"])
    if spec.get("post"):
        edit_statement(out, spec["post"])
    versions = {package: importlib.metadata.version(package)
                for package in (spec["by"], "torch", "transformers")}
    made_by = dict(name=name, base=spec["base"], about=describe(name, versions), versions=versions,
                   options=spec["options"], edited=spec.get("post"))
    (out / "made_by.json").write_text(json.dumps(made_by, indent=2) + "\n")


def describe(name, versions):
    spec = MODELS[name]
    stated = " ".join(f"{key}={json.dumps(value)}" for key, value in spec["options"].items() if value != {})
    return f"{spec['base']}: {spec['about']}; {spec['by']} {versions[spec['by']]} {stated}"


def run_each(work, names):
    """Each model in a process of its own: the quantizers keep state, and one failure must not stop the rest."""
    failed = []
    for name in names:
        if importlib.util.find_spec(MODULES[MODELS[name]["by"]]) is None:
            print(f"{name}: skipped, {MODELS[name]['by']} is not installed here", flush=True)
            continue
        env = dict(os.environ, GPTQMODEL_CPU_WORKERS="2", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="",
                   AR_ALLOW_W8_ASYM="1")
        log = work / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as sink:
            done = subprocess.run([sys.executable, __file__, "--work", str(work), "--here", name],
                                  env=env, stdout=sink, stderr=subprocess.STDOUT, check=False)
        print(f"{name}: {'made' if done.returncode == 0 else f'FAILED, see {log}'}", flush=True)
        if done.returncode != 0:
            failed.append(name)
    return failed


def install(work):
    """Copies the kept models, their golden numbers included, without tokenizer and provenance."""
    for name, spec in MODELS.items():
        if not spec["kept"]:
            continue
        target = KEPT / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        made = work / name
        wanted = [*made.glob("*.safetensors"), *made.glob("*config*.json"), made / "golden.json"]
        for file in wanted:
            if not file.name.startswith("tokenizer"):
                shutil.copy(file, target)
        for file in target.iterdir():
            file.chmod(0o644)
        print(f"{name}: {sum(file.stat().st_size for file in target.iterdir())} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to make; all if none is given")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where bases and models are written")
    parser.add_argument("--here", action="store_true", help="make the models in this process, without a log")
    parser.add_argument("--list", action="store_true", help="print name, whether kept, quantizer and purpose")
    parser.add_argument("--install", action="store_true", help="copy the kept models into tests/data/models")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MODELS]
    if unknown:
        parser.error(f"no model named {unknown[0]}; see --list")
    names = arguments.names or list(MODELS)
    if arguments.list:
        for name in names:
            spec = MODELS[name]
            print(f"{name:40} {'kept' if spec['kept'] else '-':5} {spec['by']:10} {spec['base']}: {spec['about']}")
    elif arguments.install:
        install(arguments.work)
    elif arguments.here:
        for name in names:
            make_model(arguments.work, name)
    elif run_each(arguments.work, names):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
