#include <algorithm>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/norm/rms_norm.h"
#include "kernels/norm/rms_norm_check.h"

namespace tessera {
namespace {

constexpr int kVector = 8;  // 16 bytes of a 16-bit type
constexpr int kMaxThreads = 1024;
constexpr int kMaxVectors = 4;  // a thread's; 1024 * 4 * 8 is the widest row

template <typename T>
struct alignas(16) Eight {
  T values[kVector];
};

// Sum over the block in a fixed order; every thread gets it. `scratch` holds a float a warp.
__device__ float BlockSum(float value, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = WarpReduce<SumOp>(value);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return WarpReduce<SumOp>(lane < warps ? scratch[lane] : 0.f);
}

// One block a row; a thread keeps its 16-byte pieces of the row in registers between the two steps.
// Grid t, block of whole warps covering d / 8 with up to kMaxVectors pieces a thread.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) RmsNormKernel(RmsNormArgs a) {
  __shared__ float scratch[kMaxThreads / kWarp];
  const int64_t i = blockIdx.x;
  const int pieces = static_cast<int>(a.d / kVector), step = static_cast<int>(blockDim.x);
  const int first = static_cast<int>(threadIdx.x);
  const auto* weight = static_cast<const Eight<T>*>(a.weight);
  auto* y = static_cast<Eight<T>*>(a.y) + i * pieces;
  LetNextStart();
  WaitForPrevious();

  const int64_t row = a.rows != nullptr ? a.rows[i] : i;
  if (row < 0) {
    Eight<T> zeros;
    for (int j = 0; j < kVector; ++j) zeros.values[j] = FromFloat<T>(0.f);
    for (int p = first; p < pieces; p += step) y[p] = zeros;
    return;
  }
  const bool adds = a.add != nullptr;
  const auto* add = static_cast<const Eight<T>*>(a.add) + i * pieces;
  auto* residual = static_cast<Eight<T>*>(a.residual) + i * pieces;
  const auto* x = adds ? residual : static_cast<const Eight<T>*>(a.x) + row * pieces;
  Eight<T> kept[kMaxVectors];
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kMaxVectors; ++v) {
    const int p = first + v * step;
    if (p >= pieces) break;
    kept[v] = x[p];
    if (adds) {
      const Eight<T> more = add[p];
      for (int j = 0; j < kVector; ++j)
        kept[v].values[j] = FromFloat<T>(static_cast<float>(kept[v].values[j]) +
                                         static_cast<float>(more.values[j]));
      residual[p] = kept[v];
    }
    for (int j = 0; j < kVector; ++j) {
      const auto f = static_cast<float>(kept[v].values[j]);
      squares += f * f;
    }
  }
  const float scale = rsqrtf(BlockSum(squares, scratch) / static_cast<float>(a.d) + a.eps);
#pragma unroll
  for (int v = 0; v < kMaxVectors; ++v) {
    const int p = first + v * step;
    if (p >= pieces) break;
    const Eight<T> m = weight[p];
    Eight<T> out;
    for (int j = 0; j < kVector; ++j)
      out.values[j] = FromFloat<T>(static_cast<float>(m.values[j]) *
                                   (static_cast<float>(kept[v].values[j]) * scale));
    y[p] = out;
  }
}

}  // namespace

absl::Status RmsNormCuda(const RmsNormArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRmsNorm(a, Device::kCuda));
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  const int64_t warps = (a.d / kVector + kWarp - 1) / kWarp;
  const int64_t threads = std::min<int64_t>(warps * kWarp, kMaxThreads);
  return VisitHalf(a.dtype, "rms_norm", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("rms_norm launch", RmsNormKernel<T>,
                           {.grid = dim3(static_cast<unsigned>(a.t)),
                            .block = dim3(static_cast<unsigned>(threads)),
                            .stream = stream.cuda},
                           a);
  });
}

}  // namespace tessera
