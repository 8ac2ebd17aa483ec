#include <algorithm>

#include "kernels/device/launch.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/elementwise.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;
constexpr int kVector = 8;  // 16 bytes of a 16-bit type

LaunchShape ShapeFor(int64_t items, cudaStream_t stream) {
  const int64_t blocks = std::min((items + kThreads - 1) / kThreads, kMaxBlocks);
  return {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .stream = stream};
}

template <typename T>
struct alignas(16) Eight {
  T values[kVector];
};

// expf's fast form errs by a few units of 2^-22, far below a 16-bit result's rounding.
__device__ __forceinline__ float SiluTimes(float gate, float up) {
  return gate / (1.f + __expf(-gate)) * up;
}

// kWidth neighbouring outputs a thread, grid-strided: 8 where rows keep 16-byte alignment, else 1.
// Grid any, block kThreads.
template <typename T, typename Y, int kWidth>
__global__ void SiluMulKernel(SiluMulArgs a) {
  LetNextStart();
  WaitForPrevious();
  const T* both = static_cast<const T*>(a.both);
  Y* y = static_cast<Y*>(a.y);
  const int64_t y_stride = a.y_stride > 0 ? a.y_stride : a.n;
  const int64_t groups = a.n / kWidth, count = a.t * groups, step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t row = i / groups, n = i % groups * kWidth;
    const T* gate_at = both + row * 2 * a.n + n;
    if constexpr (kWidth == kVector) {
      const auto gate = *reinterpret_cast<const Eight<T>*>(gate_at);
      const auto up = *reinterpret_cast<const Eight<T>*>(gate_at + a.n);
      Y out[kVector];
      for (int j = 0; j < kVector; ++j)
        out[j] = FromFloat<Y>(
            SiluTimes(static_cast<float>(gate.values[j]), static_cast<float>(up.values[j])));
      for (int j = 0; j < kVector; ++j) y[row * y_stride + n + j] = out[j];
    } else {
      y[row * y_stride + n] =
          FromFloat<Y>(SiluTimes(static_cast<float>(*gate_at), static_cast<float>(gate_at[a.n])));
    }
  }
}

// One output a thread, grid-strided. Grid any, block kThreads.
template <typename T>
__global__ void SeedOutputsKernel(SeedOutputsArgs a) {
  LetNextStart();
  WaitForPrevious();
  const T* bias = static_cast<const T*>(a.bias);
  const T* residual = static_cast<const T*>(a.residual);
  const int64_t count = a.t * a.n, step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    float sum = bias != nullptr ? static_cast<float>(bias[i % a.n]) : 0.f;
    if (residual != nullptr) sum += static_cast<float>(residual[i]);
    a.y[i] = sum;
  }
}

template <typename T, typename Y>
absl::Status LaunchTyped(const SiluMulArgs& a, cudaStream_t stream) {
  if (a.n % kVector == 0)
    return LaunchDependent("silu_mul launch", SiluMulKernel<T, Y, kVector>,
                           ShapeFor(a.t * a.n / kVector, stream), a);
  return LaunchDependent("silu_mul launch", SiluMulKernel<T, Y, 1>, ShapeFor(a.t * a.n, stream), a);
}

}  // namespace

absl::Status LaunchSiluMul(const SiluMulArgs& a, cudaStream_t stream) {
  return VisitHalf(a.dtype, "silu_mul", [&]<typename T>(TypeTag<T>) {
    return a.y_dtype == DType::kF32 ? LaunchTyped<T, float>(a, stream)
                                    : LaunchTyped<T, T>(a, stream);
  });
}

absl::Status LaunchSeedOutputs(const SeedOutputsArgs& a, cudaStream_t stream) {
  return VisitHalf(a.dtype, "seed_outputs", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("seed_outputs launch", SeedOutputsKernel<T>, ShapeFor(a.t * a.n, stream),
                           a);
  });
}

}  // namespace tessera
