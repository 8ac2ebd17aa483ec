// TMA maps of row-major matrices of 16-bit floats, for CopyBox (barrier.cuh). Host only.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/dtype.h"

namespace tessera {

// Maps `base`, device, [rows, columns] of `dtype` (kBf16 or kF16), in boxes of box_rows rows (at
// most 256) and one panel of 64 columns, written to shared memory with the 128-byte swizzle of
// wgmma.cuh. What a box holds beyond the matrix reads as 0. base is aligned to 16 bytes, columns a
// multiple of 8. kInternal, starting with `what`: the driver refuses, or is too old.
inline absl::Status MapPanels(const char* what, const void* base, int64_t rows, int64_t columns,
                              int box_rows, DType dtype, CUtensorMap* map) {
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
  constexpr cuuint32_t kPanelColumns = 64;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {kPanelColumns, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  const CUresult result = encode(
      map,
      dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
      const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": no tensor map of ", rows, " rows of ", columns,
                                          " elements: CUDA driver error ",
                                          static_cast<int>(result)));
}

}  // namespace tessera
