// One table of weight formats: what the planner, the loader and the kernels know of each.
// The files' own layouts are in docs/formats.md.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "common/dtype.h"

namespace tessera {

enum class QuantMethod : uint8_t { kNone, kGptq, kAwq };

// How one linear layer's weight is stored. kNone: a dense [n, k] matrix of the model's dtype.
struct QuantFormat {
  QuantMethod method = QuantMethod::kNone;
  int bits = 16;
  int64_t group = 0;  // weights along k that share a scale; 0 for dense, -1 for the whole column
  bool symmetric = true;  // false: a zero point per group is stored
};

// A format that users name, as in `tessera plan --quant gptq-int4`.
struct NamedQuantFormat {
  absl::string_view name;
  QuantFormat format;
};

absl::Span<const NamedQuantFormat> NamedQuantFormats();

// kInvalidArgument: not one of the names, which the message lists.
absl::StatusOr<QuantFormat> ParseQuantFormat(absl::string_view name);

// Bytes of an [n, k] weight in device memory: packed values, fp16 scales and, when asymmetric,
// zero points. `dtype` counts only for kNone.
int64_t WeightBytes(const QuantFormat& format, DType dtype, int64_t n, int64_t k);

}  // namespace tessera
