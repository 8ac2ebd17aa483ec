// TMA maps of row-major matrices of 16-bit floats, for CopyBox (barrier.cuh). Host only.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/dtype.h"

namespace tessera {

// The driver's cuTensorMapEncodeTiled, looked up once a process; null where it has none.
inline decltype(&cuTensorMapEncodeTiled) TensorMapEncoder() {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  }();
  return encode;
}

// A row-major matrix and the boxes that it is read in. A row has a multiple of 16 bytes.
struct MatrixBoxes {
  const void* base = nullptr;  // device, aligned to 16 bytes
  int64_t rows = 0, columns = 0;
  int element_bytes = 1;
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  int box_rows = 0, box_columns = 0;  // box_rows: at most 256
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
};

// What a box holds beyond the matrix reads as 0. kInternal, starting with `what`: the driver
// refuses, or is too old.
inline absl::Status MapMatrix(const char* what, const MatrixBoxes& m, CUtensorMap* map) {
  const auto encode = TensorMapEncoder();
  if (encode == nullptr)
    return absl::InternalError(absl::StrCat(what, ": the driver has no cuTensorMapEncodeTiled"));
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(m.columns), static_cast<cuuint64_t>(m.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(m.columns * m.element_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(m.box_columns),
                            static_cast<cuuint32_t>(m.box_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result =
      encode(map, m.type, 2, const_cast<void*>(m.base), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, m.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": no tensor map of ", m.rows, " rows of ",
                                          m.columns, " elements: CUDA driver error ",
                                          static_cast<int>(result)));
}

// Maps `base`, [rows, columns] of `dtype` (kBf16 or kF16), in boxes of box_rows rows and one panel
// of 64 columns, written to shared memory with the 128-byte swizzle of wgmma.cuh. columns is a
// multiple of 8. Errors as MapMatrix().
inline absl::Status MapPanels(const char* what, const void* base, int64_t rows, int64_t columns,
                              int box_rows, DType dtype, CUtensorMap* map) {
  return MapMatrix(what,
                   {.base = base,
                    .rows = rows,
                    .columns = columns,
                    .element_bytes = 2,
                    .type = dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                  : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                    .box_rows = box_rows,
                    .box_columns = 64,
                    .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                   map);
}

// Maps `base`, [rows, row_bytes] bytes, in boxes of box_rows rows of box_bytes, which lie in shared
// memory one after the other. row_bytes and box_bytes are multiples of 16. Errors as MapMatrix().
inline absl::Status MapBytes(const char* what, const void* base, int64_t rows, int64_t row_bytes,
                             int box_rows, int box_bytes, CUtensorMap* map) {
  return MapMatrix(what,
                   {.base = base,
                    .rows = rows,
                    .columns = row_bytes,
                    .box_rows = box_rows,
                    .box_columns = box_bytes},
                   map);
}

}  // namespace tessera
