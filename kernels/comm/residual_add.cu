#include <algorithm>

#include <absl/strings/str_cat.h>

#include "kernels/comm/residual_add.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/visit_dtype.cuh"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1024;

// Thread i has elements i, i + threads of the grid, ...: bound by memory, and too small to matter.
template <typename T>
__global__ void __launch_bounds__(kThreads) ResidualAddKernel(ResidualAddArgs a) {
  LetNextStart();
  WaitForPrevious();
  const auto* add = static_cast<const T*>(a.add);
  auto* residual = static_cast<T*>(a.residual);
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < a.count; i += step)
    residual[i] = FromFloat<T>(static_cast<float>(residual[i]) + static_cast<float>(add[i]));
}

}  // namespace

absl::Status ResidualAddCuda(const ResidualAddArgs& a, const Stream& stream) {
  if (a.count < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("residual_add: count=", a.count, ", may not be negative"));
  return VisitHalf(a.dtype, "residual_add", [&]<typename T>(TypeTag<T>) {
    if (a.count == 0) return absl::OkStatus();
    const int64_t blocks = std::min(kMaxBlocks, (a.count + kThreads - 1) / kThreads);
    return LaunchDependent("residual_add launch", ResidualAddKernel<T>,
                           {.grid = dim3(static_cast<unsigned>(blocks)),
                            .block = dim3(kThreads),
                            .stream = stream.cuda},
                           a);
  });
}

}  // namespace tessera
