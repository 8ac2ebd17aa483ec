#include <algorithm>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/copy_columns.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;

// One element a thread, grid-strided; bits are moved, so 16-bit types are one. Grid any, block
// kThreads.
__global__ void __launch_bounds__(kThreads) CopyColumnsKernel(CopyColumnsArgs a) {
  LetNextStart();
  WaitForPrevious();
  const auto* x = static_cast<const uint16_t*>(a.x);
  auto* y = static_cast<uint16_t*>(a.y);
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < a.t * a.n; i += step)
    y[i / a.n * a.y_stride + i % a.n] = x[i];
}

}  // namespace

absl::Status CopyColumnsCuda(const CopyColumnsArgs& a, const Stream& stream) {
  if (a.t < 0 || a.n < 0 || a.y_stride < a.n)
    return absl::InvalidArgumentError(
        absl::StrCat("copy_columns: t=", a.t, " n=", a.n, " y_stride=", a.y_stride));
  return VisitHalf(a.dtype, "copy_columns", [&]<typename T>(TypeTag<T>) {
    if (a.t == 0 || a.n == 0) return absl::OkStatus();
    const int64_t blocks = std::min(CeilDiv(a.t * a.n, kThreads), kMaxBlocks);
    return LaunchDependent("copy_columns launch", CopyColumnsKernel,
                           {.grid = dim3(static_cast<unsigned>(blocks)),
                            .block = dim3(kThreads),
                            .stream = stream.cuda},
                           a);
  });
}

}  // namespace tessera
