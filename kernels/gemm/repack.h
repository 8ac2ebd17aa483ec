// From the integers of a checkpoint's quantized tensor to a packed weight.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/quant_format.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Writes columns [j_begin, j_end) of the rows of some outputs of a packed weight (packed_weight.h)
// from a block of a file's qweight. All pointers are device memory, aligned to their elements.
//
// The block is rows of `raw_stride` words. With kRows packing, output raw_n + c is column c of it,
// and input i's field of `file_bits` begins at bit (i - raw_k) * file_bits of the stream that runs
// down the column. With kColumns, row r is input raw_k + r and output raw_n + c is in word c / 8.
struct RepackArgs {
  const uint32_t* raw = nullptr;
  int64_t raw_rows = 0, raw_stride = 0;
  int64_t raw_k = 0;  // first input, at the start of a word
  int64_t raw_n = 0;  // first output, at the start of a word
  QuantPacking packing = QuantPacking::kRows;
  int file_bits = 4;

  // Outputs raw_n + [0, outputs), and the local row of each: rows[c], none where negative; or, with
  // null, first_row + c.
  int64_t outputs = 0;
  const int32_t* rows = nullptr;
  int64_t first_row = 0;
  // The input of column j: inputs[j], none (0) where negative; or, with null, first_input + j.
  const int32_t* inputs = nullptr;
  int64_t first_input = 0;
  int64_t j_begin = 0, j_end = 0;  // multiples of PackedBlock(bits); the last may be k

  void* values = nullptr;  // of the packed weight, n * PackedRowBytes(bits, k) bytes
  int bits = 4;            // in memory: 4 or 8
  int64_t n = 0, k = 0;
  int add = 0;  // to each value, so that its zero point is 2^(bits - 1)
};

// Enqueues on `stream`; outputs = 0 or an empty column range is a no-op. Inputs and rows outside
// the block or the weight are skipped. kInvalidArgument: a negative size, a column range that is
// not of whole blocks or leaves [0, k], bits other than those of a row of common/quant_format.
absl::Status RepackCpu(const RepackArgs& args, const Stream& stream);
absl::Status RepackCuda(const RepackArgs& args, const Stream& stream);

}  // namespace tessera
