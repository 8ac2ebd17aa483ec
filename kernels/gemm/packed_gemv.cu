#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/gemm/packed_gemv.h"
#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {

absl::Status LaunchPackedGemv(const LinearArgs& a, const PackedGemvPlan& plan,
                              cudaStream_t stream) {
  if (a.dtype != DType::kBf16 && a.dtype != DType::kF16)
    return absl::UnimplementedError(
        absl::StrCat("packed linear: dtype ", Name(a.dtype), ", not bf16 or f16"));
  const size_t index =
      packed_gemv::KernelIndex(a.packed.bits, a.packed.zeros != nullptr, plan.segment, plan.form);
  const packed_gemv::KernelFn kernel =
      a.dtype == DType::kBf16 ? packed_gemv::KernelBf16(index) : packed_gemv::KernelF16(index);
  RETURN_IF_ERROR(PrepareShared("packed linear", kernel, plan.shared_bytes));
  return LaunchDependent("packed linear launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .block = dim3(kPackedGemvThreads),
                          .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                          .stream = stream},
                         packed_gemv::Params{a, plan});
}

}  // namespace tessera
