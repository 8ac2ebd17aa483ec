// TMA maps of row-major matrices, for CopyBox (barrier.cuh). Host only.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/dtype.h"

namespace tessera {

// What a map describes: `base`, device, aligned to 16 bytes, [depth, rows, columns] elements, rows
// `row_bytes` and what lies along the depth `depth_bytes` apart (multiples of 16), in boxes of
// [box_depth, box_rows, box_columns] (at most 256 each).
struct TensorMapShape {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const void* base = nullptr;
  int64_t rows = 0, columns = 0, row_bytes = 0;
  int64_t box_rows = 0, box_columns = 0;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  int64_t depth = 0, depth_bytes = 0, box_depth = 0;  // 0: a matrix, for boxes of two coordinates
};

// What a box holds beyond the tensor reads as 0. kInternal, starting with `what`: the driver
// refuses, or is too old.
inline absl::Status MapTensor(const char* what, const TensorMapShape& s, CUtensorMap* map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  // Found in the driver once per process.
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  }();
  if (encode == nullptr)
    return absl::InternalError(absl::StrCat(what, ": the driver has no cuTensorMapEncodeTiled"));
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(s.columns), static_cast<cuuint64_t>(s.rows),
                              static_cast<cuuint64_t>(s.depth)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(s.row_bytes),
                                static_cast<cuuint64_t>(s.depth_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(s.box_columns),
                            static_cast<cuuint32_t>(s.box_rows),
                            static_cast<cuuint32_t>(s.box_depth)};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUresult result =
      encode(map, s.type, s.depth > 0 ? 3 : 2, const_cast<void*>(s.base), sizes, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, s.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": no tensor map of ", s.rows, " rows of ",
                                          s.columns, " elements: CUDA driver error ",
                                          static_cast<int>(result)));
}

// Of kBf16 or kF16.
inline CUtensorMapDataType MapType(DType dtype) {
  return dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

// Maps [rows, columns] of `dtype` (kBf16 or kF16), columns a multiple of 8, in boxes of one panel
// of 64 columns, written to shared memory with the 128-byte swizzle of wgmma.cuh.
inline absl::Status MapPanels(const char* what, const void* base, int64_t rows, int64_t columns,
                              int box_rows, DType dtype, CUtensorMap* map) {
  return MapTensor(what,
                   {.type = MapType(dtype),
                    .base = base,
                    .rows = rows,
                    .columns = columns,
                    .row_bytes = columns * 2,
                    .box_rows = box_rows,
                    .box_columns = 64,
                    .swizzle = CU_TENSOR_MAP_SWIZZLE_128B},
                   map);
}

}  // namespace tessera
