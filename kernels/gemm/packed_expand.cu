#include <algorithm>
#include <cstdint>

#include <cuda_fp16.h>

#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/packed_expand.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;

__device__ __forceinline__ int64_t GroupOf(const PackedWeight& w, int64_t step) {
  if (w.group_of_step != nullptr) return w.group_of_step[step];
  return step * kPackedStep / w.group;
}

__device__ __forceinline__ float ZeroOf(const PackedWeight& w, int64_t group, int64_t row) {
  if (w.zeros == nullptr) return static_cast<float>(1 << (w.bits - 1));
  const auto* zeros = static_cast<const uint8_t*>(w.zeros) + group * PackedZeroStride(w.bits, w.n);
  if (w.bits == 8) return zeros[row];
  return static_cast<float>(zeros[row / 2] >> (row % 2 * 4) & 15);
}

// A thread takes a lane's four values of a step: a word of 8 bits, half a word of 4 bits. Grid any,
// block kThreads.
template <typename T>
__global__ void PackedExpandKernel(PackedWeight w, int64_t first_row, int64_t rows, T* out) {
  LetNextStart();
  WaitForPrevious();
  const int64_t steps = w.k / kPackedStep, count = rows * steps * 4;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / (steps * 4), step = i / 4 % steps, lane = i % 4;
    const auto* values = static_cast<const uint8_t*>(w.values) + PackedRowAt(w.bits, w.k, first_row + row);
    const int64_t group = GroupOf(w, step);
    const float scale =
        __half2float(static_cast<const __half*>(w.scales)[group * w.n + first_row + row]);
    const float zero = ZeroOf(w, group, first_row + row);
    uint32_t pairs[2];
    for (int half = 0; half < 2; ++half) {
      const int64_t k = step * kPackedStep + half * 8 + lane * 2;
      float v[2];
      for (int odd = 0; odd < 2; ++odd) {
        const PackedPlace place = PackedPlaceOf(w.bits, k + odd);
        const int q = values[place.byte] >> place.shift & ((1 << w.bits) - 1);
        v[odd] = (static_cast<float>(q) - zero) * scale;
      }
      pairs[half] = PackHalves<T>(v[0], v[1]);
    }
    auto* to = reinterpret_cast<uint32_t*>(out + row * w.k + step * kPackedStep) + lane;
    to[0] = pairs[0];
    to[4] = pairs[1];
  }
}

}  // namespace

absl::Status LaunchPackedExpand(const PackedWeight& w, int64_t first_row, int64_t rows, void* out,
                                DType dtype, cudaStream_t stream) {
  const int64_t count = rows * (w.k / kPackedStep) * 4;
  if (count == 0) return absl::OkStatus();
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMaxBlocks);
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream};
  return VisitHalf(dtype, "packed_expand", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("packed_expand launch", PackedExpandKernel<T>, shape, w, first_row, rows,
                           static_cast<T*>(out));
  });
}

}  // namespace tessera
