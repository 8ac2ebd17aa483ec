#include "client/model_flags.h"

namespace tessera {

std::vector<FlagSpec> ModelFlags() {
  return {
      {.name = "context",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Longest sequence, prompt and answer",
       .fallback = "the model's",
       .min = 1,
       .max = 1 << 24},
      {.name = "max-sequences",
       .kind = FlagKind::kInt,
       .value = "SEQUENCES",
       .help = "Sequences decoded together",
       .fallback = "64",
       .min = 1,
       .max = 4096},
      {.name = "max-step-tokens",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Most tokens computed in one step",
       .fallback = "2048, on the CPU 512",
       .min = 1,
       .max = 65536},
      {.name = "block-size",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Tokens per KV block, a multiple of 16",
       .fallback = "64",
       .min = 16,
       .max = 1024},
      {.name = "device-memory",
       .kind = FlagKind::kBytes,
       .value = "BYTES",
       .help = "Cap per GPU or CPU rank; K, M, G and T mean powers of 1024",
       .fallback = "92 % of what is free",
       .min = 1},
      {.name = "dtype",
       .value = "TYPE",
       .help = "Type of weights, activations and KV",
       .fallback = "the checkpoint's; bfloat16 for float32 on GPUs",
       .choices = "float32|bfloat16|float16"},
      {.name = "quant",
       .value = "FORMAT",
       .help = "Format of the linear weights; a load takes another than the checkpoint's only with "
               "--load-format dummy",
       .fallback = "what config.json says",
       .choices = "none|gptq-int8|gptq-int4|awq"},
      {.name = "tp",
       .kind = FlagKind::kInt,
       .value = "RANKS",
       .help = "Tensor-parallel ranks",
       .fallback = "the planner chooses",
       .min = 1,
       .max = 1024},
      {.name = "pp",
       .kind = FlagKind::kInt,
       .value = "STAGES",
       .help = "Pipeline stages",
       .fallback = "the planner chooses",
       .min = 1,
       .max = 1024},
  };
}

EngineLimits LimitsOf(const Flags& flags) {
  return {.context = flags.Int("context").value_or(0),
          .max_sequences = flags.Int("max-sequences").value_or(0),
          .max_step_tokens = flags.Int("max-step-tokens").value_or(0),
          .block_size = flags.Int("block-size").value_or(0)};
}

void ApplyModelFlags(const Flags& flags, v1::ModelOptions& options) {
  const EngineLimits limits = LimitsOf(flags);
  options.set_context(limits.context);
  options.set_max_sequences(static_cast<int32_t>(limits.max_sequences));
  options.set_max_step_tokens(static_cast<int32_t>(limits.max_step_tokens));
  options.set_block_size(static_cast<int32_t>(limits.block_size));
  options.set_device_memory_bytes(flags.Int("device-memory").value_or(0));
  options.set_dtype(flags.String("dtype").value_or(""));
  options.set_quant(flags.String("quant").value_or(""));
  options.set_tp(static_cast<int32_t>(flags.Int("tp").value_or(0)));
  options.set_pp(static_cast<int32_t>(flags.Int("pp").value_or(0)));
}

}  // namespace tessera
