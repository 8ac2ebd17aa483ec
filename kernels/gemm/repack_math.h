// The arithmetic of repacking, the same on both devices, and what both refuse.
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr).
#pragma once

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/gemm/packed_weight.h"
#include "kernels/gemm/repack.h"

namespace tessera {

// The file's integer of input i and output raw_n + c, or 0 when the block does not hold it.
constexpr uint32_t RawValue(const RepackArgs& a, int64_t i, int64_t c) {
  const int64_t local = i - a.raw_k;
  if (local < 0) return 0;
  if (a.packing == QuantPacking::kColumns) {
    if (local >= a.raw_rows || c / 8 >= a.raw_stride) return 0;
    // Column 8 w + j of word w is at nibble 0, 4, 1, 5, 2, 6, 3, 7 for j = 0...7.
    const int nibble = static_cast<int>(c % 8 / 2 + c % 2 * 4);
    return a.raw[local * a.raw_stride + c / 8] >> (4 * nibble) & 15;
  }
  const int64_t bit = local * a.file_bits, word = bit / 32;
  const int shift = static_cast<int>(bit % 32);
  if (word >= a.raw_rows || c >= a.raw_stride) return 0;
  uint32_t value = a.raw[word * a.raw_stride + c] >> shift;
  if (shift + a.file_bits > 32 && word + 1 < a.raw_rows)
    value |= a.raw[(word + 1) * a.raw_stride + c] << (32 - shift);
  return value & ((uint32_t{1} << a.file_bits) - 1);
}

// The packed integer of column j.
constexpr uint32_t PackedValue(const RepackArgs& a, int64_t j, int64_t c) {
  if (j >= a.j_end) return 0;
  const int64_t input = a.inputs != nullptr ? a.inputs[j] : a.first_input + j;
  return input < 0 ? 0 : RawValue(a, input, c) + static_cast<uint32_t>(a.add);
}

// The local row of output raw_n + c, or -1.
constexpr int64_t PackedRow(const RepackArgs& a, int64_t c) {
  const int64_t row = a.rows != nullptr ? a.rows[c] : a.first_row + c;
  return row >= 0 && row < a.n ? row : -1;
}

inline absl::Status CheckRepack(const RepackArgs& a) {
  const bool bits_known = (a.bits == 4 || a.bits == 8) && a.file_bits >= 2 && a.file_bits <= a.bits;
  const bool sizes = a.raw_rows >= 0 && a.raw_stride >= 0 && a.raw_k >= 0 && a.raw_n >= 0 &&
                     a.outputs >= 0 && a.n >= 0 && a.k >= 0;
  const bool packing = a.packing == QuantPacking::kRows || (a.file_bits == 4 && a.bits == 4);
  if (!bits_known || !sizes || !packing)
    return absl::InvalidArgumentError(
        absl::StrCat("repack: ", a.file_bits, " to ", a.bits, " bits, block of ", a.raw_rows, " x ",
                     a.raw_stride, " words, ", a.outputs, " outputs of n=", a.n, " k=", a.k));
  const int64_t block = PackedBlock(a.bits);
  const bool columns = 0 <= a.j_begin && a.j_begin <= a.j_end && a.j_end <= a.k &&
                       a.j_begin % block == 0 && (a.j_end % block == 0 || a.j_end == a.k);
  if (columns) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("repack: columns ", a.j_begin, " to ", a.j_end,
                                                 " of ", a.k, ", must be whole blocks of ", block));
}

}  // namespace tessera
