#include "client/request_flags.h"

#include <absl/strings/str_cat.h>

namespace tessera {

void Append(std::vector<FlagSpec>& flags, const std::vector<FlagSpec>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
}

FlagSpec LoadedModelFlag() {
  return {.name = "model",
          .kind = FlagKind::kText,
          .value = "NAME",
          .help = "A loaded model",
          .fallback = "required"};
}

std::vector<FlagSpec> SamplingFlags() {
  constexpr absl::string_view kModels = "the model's generation_config.json, else ";
  static const auto* const fallback = new std::vector<std::string>{
      absl::StrCat(kModels, "0"), absl::StrCat(kModels, "1"), absl::StrCat(kModels, "0, off")};
  const std::string &zero = (*fallback)[0], &one = (*fallback)[1], &off = (*fallback)[2];
  return {
      {.name = "max-tokens",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Most tokens to generate, at least 1",
       .fallback = "what the context leaves",
       .min = 1,
       .max = INT32_MAX},
      {.name = "temperature",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Divides the logits, at least 0; 0 is greedy",
       .fallback = zero,
       .low = 0},
      {.name = "top-p",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Keep the likeliest tokens of this total probability, in (0, 1]",
       .fallback = one,
       .low = 0,
       .high = 1,
       .low_open = true},
      {.name = "min-p",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Drop tokens below this share of the likeliest one's probability, in [0, 1]",
       .fallback = zero,
       .low = 0,
       .high = 1},
      {.name = "top-k",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Keep this many likeliest tokens, at least 0; 0 is off",
       .fallback = off,
       .min = 0,
       .max = INT32_MAX},
      {.name = "repetition-penalty",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Divides logits of tokens seen in prompt or answer, above 0; 1 is off",
       .fallback = one,
       .low = 0,
       .low_open = true},
      {.name = "presence-penalty",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Subtracted from logits of tokens in the answer",
       .fallback = "0"},
      {.name = "frequency-penalty",
       .kind = FlagKind::kFloat,
       .value = "X",
       .help = "Subtracted from a token's logit once per occurrence in the answer",
       .fallback = "0"},
      {.name = "seed",
       .kind = FlagKind::kUint,
       .value = "N",
       .help = "Same seed and request, same tokens; 0..2^64-1",
       .fallback = "random"},
      {.name = "ignore-eos",
       .kind = FlagKind::kSwitch,
       .help = "Go on past end-of-text tokens",
       .fallback = "off"},
      {.name = "stop",
       .kind = FlagKind::kText,
       .value = "TEXT",
       .help = "End where the answer contains TEXT, which is left out",
       .fallback = "none"},
      {.name = "stop-ids",
       .kind = FlagKind::kIntList,
       .value = "IDS",
       .help = "End at any of these token ids, separated by commas",
       .fallback = "none"},
  };
}

void ApplySamplingFlags(const Flags& flags, v1::GenerateRequest& request) {
  v1::SamplingOptions& s = *request.mutable_sampling();
  if (const auto v = flags.Int("max-tokens")) request.set_max_tokens(static_cast<int32_t>(*v));
  if (const auto v = flags.Float("temperature")) s.set_temperature(*v);
  if (const auto v = flags.Float("top-p")) s.set_top_p(*v);
  if (const auto v = flags.Float("min-p")) s.set_min_p(*v);
  if (const auto v = flags.Int("top-k")) s.set_top_k(static_cast<int32_t>(*v));
  if (const auto v = flags.Float("repetition-penalty")) s.set_repetition_penalty(*v);
  if (const auto v = flags.Float("presence-penalty")) s.set_presence_penalty(*v);
  if (const auto v = flags.Float("frequency-penalty")) s.set_frequency_penalty(*v);
  if (const auto v = flags.Uint("seed")) s.set_seed(*v);
  request.set_ignore_eos(flags.Switch("ignore-eos"));
  if (const auto v = flags.String("stop")) request.add_stop(*v);
  if (const auto v = flags.IntList("stop-ids"))
    request.mutable_stop_ids()->Assign(v->begin(), v->end());
}

}  // namespace tessera
