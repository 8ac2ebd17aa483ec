#include "common/quant_format.h"

#include <algorithm>
#include <array>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "common/check.h"

namespace tessera {
namespace {

constexpr std::array<QuantRow, 5> kRows = {{
    {QuantMethod::kGptq, 2, QuantPacking::kRows, 4, 16, 16},
    {QuantMethod::kGptq, 3, QuantPacking::kRows, 4, 32, 32},
    {QuantMethod::kGptq, 4, QuantPacking::kRows, 4, 8, 8},
    {QuantMethod::kGptq, 8, QuantPacking::kRows, 8, 4, 4},
    {QuantMethod::kAwq, 4, QuantPacking::kColumns, 4, 1, 8},
}};

constexpr std::array<NamedQuantFormat, 4> kFormats = {{
    {"none", {}},
    {"gptq-int8", {.method = QuantMethod::kGptq, .bits = 8, .group = 128}},
    {"gptq-int4", {.method = QuantMethod::kGptq, .bits = 4, .group = 128}},
    {"awq",
     {.method = QuantMethod::kAwq,
      .bits = 4,
      .group = 128,
      .symmetric = false,
      .zero_rule = ZeroRule::kAsStored}},
}};

constexpr int64_t kPieceAlignment = 16;

}  // namespace

std::string Describe(const QuantFormat& format) {
  if (!format.quantized()) return "dense";
  return absl::StrCat(format.method == QuantMethod::kAwq ? "awq " : "gptq ", format.bits,
                      " bit, group ", format.group);
}

const QuantRow* FindQuantRow(QuantMethod method, int bits) {
  for (const QuantRow& row : kRows) {
    if (row.method == method && row.bits == bits) return &row;
  }
  return nullptr;
}

int64_t QuantGroups(const QuantFormat& format, int64_t k) {
  return format.group <= 0 ? 1 : CeilDiv(k, format.group);
}

// The sizes of kernels/gemm/packed_weight.h, which this module must not include; the repack op
// checks that both say the same.
PackedOffsets PackedOffsetsOf(const PackedShape& s) {
  constexpr int64_t kBlockBytes = 64;
  const int64_t row_bytes = CeilDiv(s.k, kBlockBytes * 8 / s.bits) * kBlockBytes;
  const int64_t zero_stride = AlignUp(s.n * s.bits / 8, kPieceAlignment);
  PackedOffsets at;
  const auto after = [](int64_t begin, int64_t bytes) {
    return begin + AlignUp(bytes, kPieceAlignment);
  };
  at.scales = after(0, s.n * row_bytes);
  at.zeros = after(at.scales, s.n * s.groups * SizeOf(DType::kF16));
  at.steps = after(at.zeros, s.zeros ? s.groups * zero_stride : 0);
  at.order = after(at.steps, s.ragged ? s.k / kQuantUnitK * 2 : 0);
  at.bytes = after(at.order, s.ordered ? s.k * SizeOf(DType::kI32) : 0);
  return at;
}

absl::Span<const NamedQuantFormat> NamedQuantFormats() { return kFormats; }

absl::StatusOr<QuantFormat> ParseQuantFormat(absl::string_view name) {
  std::string names;
  for (const NamedQuantFormat& f : kFormats) {
    if (f.name == name) return f.format;
    absl::StrAppend(&names, names.empty() ? "" : ", ", f.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("quant \"", name, "\": want one of ", names));
}

std::string NameOf(const QuantFormat& format) {
  for (const NamedQuantFormat& known : kFormats) {
    if (known.format.method != format.method || known.format.bits != format.bits) continue;
    if (known.format.group == format.group) return std::string(known.name);
    return absl::StrCat(known.name, "-g", format.group);
  }
  return absl::StrCat("int", format.bits);
}

int64_t WeightBytes(const QuantFormat& format, DType dtype, int64_t n, int64_t k) {
  if (!format.quantized()) return n * k * SizeOf(dtype);
  const QuantRow* row = FindQuantRow(format.method, format.bits);
  TESSERA_CHECK(row != nullptr, "no row for ", Describe(format));
  return PackedOffsetsOf({.bits = row->packed_bits,
                          .n = n,
                          .k = k,
                          .groups = QuantGroups(format, k),
                          .zeros = !format.symmetric})
      .bytes;
}

}  // namespace tessera
