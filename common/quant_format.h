// One table of weight formats: what the planner, the loader and the kernels know of each.
// The files' own layouts are in docs/formats.md, the layout in memory in
// kernels/gemm/packed_weight.h.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "common/dtype.h"

namespace tessera {

enum class QuantMethod : uint8_t { kNone, kGptq, kAwq };

// Where the integers of a file's tensors lie.
enum class QuantPacking : uint8_t {
  kRows,     // one stream of bits down k for each output, lowest bit first
  kColumns,  // a word holds 8 outputs, interleaved 0, 2, 4, 6, 1, 3, 5, 7
};

// What a stored zero point means.
enum class ZeroRule : uint8_t {
  kMinusOne,  // zero - 1 modulo 2^bits, subtracted with a borrow through the word (gptq, "v1")
  kAsStored,  // gptq_v2, awq
};

// How one linear layer's weight is stored: w = scale * (q - zero), scale and zero of a row's group.
// kNone: a dense [n, k] matrix of the model's dtype.
struct QuantFormat {
  QuantMethod method = QuantMethod::kNone;
  int bits = 16;
  int64_t group = 0;  // weights along k that share a scale; 0 for dense, -1 for the whole column
  bool symmetric = true;  // false: a zero point per group is stored
  ZeroRule zero_rule = ZeroRule::kMinusOne;
  bool act_order = false;  // which group an input is of is listed (g_idx), not input / group

  bool quantized() const { return method != QuantMethod::kNone; }
  bool operator==(const QuantFormat&) const = default;
};

// "gptq 4 bit, group 128", for messages.
std::string Describe(const QuantFormat& format);

// A row of the table.
struct QuantRow {
  QuantMethod method;
  int bits;  // in files
  QuantPacking packing;
  int packed_bits;      // in device memory: 2 and 3 bits are widened to 4
  int64_t file_unit_k;  // inputs and outputs that files keep in whole words
  int64_t file_unit_n;
};

// Null: no row, so no kernel.
const QuantRow* FindQuantRow(QuantMethod method, int bits);

// What splits a quantized matrix over ranks: outputs and inputs in multiples of these.
inline constexpr int64_t kQuantUnitN = 8;
inline constexpr int64_t kQuantUnitK = 16;

// Groups that the kernels take: 32, 64, or a multiple of 128 (or the whole column).
constexpr bool IsKernelGroup(int64_t group) {
  return group == 32 || group == 64 || (group > 0 && group % 128 == 0);
}

// Groups of a column of k inputs.
int64_t QuantGroups(const QuantFormat& format, int64_t k);

// A packed [n, k] weight in device memory: one buffer that begins with the values.
struct PackedShape {
  int bits = 0;  // packed_bits
  int64_t n = 0, k = 0, groups = 0;
  bool zeros = false;    // zero points are stored
  bool ragged = false;   // group_of_step is stored
  bool ordered = false;  // the columns of the inputs are stored, i32 [inputs] of at most k
};
struct PackedOffsets {
  int64_t scales = 0, zeros = 0, steps = 0, order = 0;  // from the values; multiples of 16
  int64_t bytes = 0;
};
PackedOffsets PackedOffsetsOf(const PackedShape& shape);

// A format that users name, as in `tessera plan --quant gptq-int4`.
struct NamedQuantFormat {
  absl::string_view name;
  QuantFormat format;
};

absl::Span<const NamedQuantFormat> NamedQuantFormats();

// kInvalidArgument: not one of the names, which the message lists.
absl::StatusOr<QuantFormat> ParseQuantFormat(absl::string_view name);

// The named format of the same method, bits and group; with the group behind it where that is
// another than the table's ("gptq-int4-g32"), "int2" where no name has the bits.
std::string NameOf(const QuantFormat& format);

// Bytes of an [n, k] weight in device memory whose inputs are in order: packed values, fp16 scales
// and, when asymmetric, zero points. `dtype` counts only for kNone.
int64_t WeightBytes(const QuantFormat& format, DType dtype, int64_t n, int64_t k);

}  // namespace tessera
