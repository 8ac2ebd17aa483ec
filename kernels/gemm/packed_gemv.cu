#include <cuda.h>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/gemm/packed_gemv.h"
#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {
namespace {

// The boxes of a stage: its chunks of a tile, and rows of scales and zeros.
absl::Status MapWeights(const LinearArgs& a, const PackedGemvPlan& plan,
                        packed_gemv::Params& params) {
  const PackedWeight& w = a.packed;
  const int64_t rows =
      plan.segment == PackedSegment::kStep ? 1 : int64_t{plan.warps} * plan.chunk_rows;
  RETURN_IF_ERROR(MapTensor("packed linear: values",
                            {.type = CU_TENSOR_MAP_DATA_TYPE_UINT32,
                             .base = w.values,
                             .rows = plan.chunks,
                             .columns = kPackedTileBytes / 4,
                             .row_bytes = kPackedTileBytes,
                             .planes = w.n / kPackedTileRows,
                             .plane_bytes = plan.chunks * kPackedTileBytes,
                             .box_rows = plan.warps,
                             .box_columns = kPackedTileBytes / 4},
                            &params.values));
  RETURN_IF_ERROR(MapTensor("packed linear: scales",
                            {.type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
                             .base = w.scales,
                             .rows = w.groups,
                             .columns = w.n,
                             .row_bytes = w.n * 2,
                             .box_rows = rows,
                             .box_columns = plan.scale_row_bytes / 2},
                            &params.scales));
  if (w.zeros == nullptr) return absl::OkStatus();
  return MapTensor("packed linear: zeros",
                   {.base = w.zeros,
                    .rows = w.groups,
                    .columns = PackedZeroStride(w.bits, w.n),
                    .row_bytes = PackedZeroStride(w.bits, w.n),
                    .box_rows = rows,
                    .box_columns = plan.zero_row_bytes},
                   &params.zeros);
}

}  // namespace

absl::Status LaunchPackedGemv(const LinearArgs& a, const PackedGemvPlan& plan,
                              cudaStream_t stream) {
  if (a.dtype != DType::kBf16 && a.dtype != DType::kF16)
    return absl::UnimplementedError(
        absl::StrCat("packed linear: dtype ", Name(a.dtype), ", not bf16 or f16"));
  packed_gemv::Params params = {a, plan, {}, {}, {}};
  if (CurrentGpu().major >= 9) RETURN_IF_ERROR(MapWeights(a, plan, params));
  const size_t index =
      packed_gemv::KernelIndex(a.packed.bits, a.packed.zeros != nullptr, plan.segment, plan.form);
  const packed_gemv::KernelFn kernel =
      a.dtype == DType::kBf16 ? packed_gemv::KernelBf16(index) : packed_gemv::KernelF16(index);
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(plan.shared_bytes)),
                       "packed linear: shared memory");
  // Without it CUDA sizes the shared memory for one block, and the next kernel's wait outside.
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared),
                       "packed linear: shared memory carve-out");
  return LaunchDependent("packed linear launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .block = dim3(static_cast<unsigned>((plan.warps + 1) * kWarp)),
                          .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                          .stream = stream},
                         params);
}

}  // namespace tessera
