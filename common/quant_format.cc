#include "common/quant_format.h"

#include <array>
#include <string>

#include <absl/strings/str_cat.h>

namespace tessera {
namespace {

constexpr std::array<NamedQuantFormat, 4> kFormats = {{
    {"none", {}},
    {"gptq-int8", {QuantMethod::kGptq, 8, 128, true}},
    {"gptq-int4", {QuantMethod::kGptq, 4, 128, true}},
    {"awq", {QuantMethod::kAwq, 4, 128, false}},
}};

}  // namespace

absl::Span<const NamedQuantFormat> NamedQuantFormats() { return kFormats; }

absl::StatusOr<QuantFormat> ParseQuantFormat(absl::string_view name) {
  std::string names;
  for (const NamedQuantFormat& f : kFormats) {
    if (f.name == name) return f.format;
    absl::StrAppend(&names, names.empty() ? "" : ", ", f.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("quant \"", name, "\": want one of ", names));
}

int64_t WeightBytes(const QuantFormat& format, DType dtype, int64_t n, int64_t k) {
  if (format.method == QuantMethod::kNone) return n * k * SizeOf(dtype);
  const int64_t groups = format.group <= 0 ? 1 : (k + format.group - 1) / format.group;
  const int64_t packed = (n * k * format.bits + 7) / 8;
  const int64_t scales = n * groups * SizeOf(DType::kF16);
  const int64_t zeros = format.symmetric ? 0 : (n * groups * format.bits + 7) / 8;
  return packed + scales + zeros;
}

}  // namespace tessera
