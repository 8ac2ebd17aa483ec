#include <algorithm>
#include <cstdint>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/rope/rope_kv_write.h"
#include "kernels/rope/rope_kv_write_check.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
// Up to here each block takes a single pass over its part of a token's heads: the step is short and
// latency counts. Beyond, a block takes a whole token and computes its sines once.
constexpr int64_t kFewTokens = 64;

struct RopeParams {
  const void* qkv;
  const int32_t* positions;
  const int64_t* kv_index;
  const float* inv_freq;
  const void *q_norm, *k_norm;
  void *q_out, *k_cache, *v_cache;
  int64_t cache_tokens;
  int32_t h, g, block_size;
  float rope_scale, norm_eps;
};

// A head's four elements of one lane: x[2l], x[2l + 1] and their partners half a head further.
struct Quad {
  float2 low, high;
};

template <typename T>
__device__ __forceinline__ Quad LoadQuad(const T* head, int lane, int half) {
  const auto* words = reinterpret_cast<const uint32_t*>(head);
  return {UnpackHalves<T>(words[lane]), UnpackHalves<T>(words[lane + half / 2])};
}

template <typename T>
__device__ __forceinline__ void StoreQuad(T* head, int lane, int half, const Quad& x) {
  auto* words = reinterpret_cast<uint32_t*>(head);
  words[lane] = PackHalves<T>(x.low.x, x.low.y);
  words[lane + half / 2] = PackHalves<T>(x.high.x, x.high.y);
}

template <typename T, int kE>
__device__ __forceinline__ Quad Normalised(Quad x, const T* weight, int lane, float eps) {
  float sum = x.low.x * x.low.x + x.low.y * x.low.y + x.high.x * x.high.x + x.high.y * x.high.y;
  for (int step = kE / 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const float scale = rsqrtf(sum / kE + eps);
  const Quad w = LoadQuad(weight, lane, kE / 2);
  return {{w.low.x * (x.low.x * scale), w.low.y * (x.low.y * scale)},
          {w.high.x * (x.high.x * scale), w.high.y * (x.high.y * scale)}};
}

// Grid (t, parts of the heads), block kThreads. kE / 4 lanes own a head, four elements each, so a
// warp takes 1, 2 or 4 heads at a time; heads are q, k, v in the order of a qkv row.
template <typename T, int kE>
__global__ void __launch_bounds__(kThreads) RopeKvWriteKernel(RopeParams p) {
  constexpr int kLanes = kE / 4, kHalf = kE / 2;
  const int lane = threadIdx.x % kLanes;
  LetNextStart();
  const float frequency0 = p.inv_freq[2 * lane], frequency1 = p.inv_freq[2 * lane + 1];
  WaitForPrevious();
  const int64_t token = blockIdx.x;
  const auto position = static_cast<float>(p.positions[token]);
  float2 sin, cos;
  sincosf(position * frequency0, &sin.x, &cos.x);
  sincosf(position * frequency1, &sin.y, &cos.y);
  sin.x *= p.rope_scale, sin.y *= p.rope_scale, cos.x *= p.rope_scale, cos.y *= p.rope_scale;
  const int64_t index = p.kv_index[token];
  const bool cached = index >= 0 && index < p.cache_tokens;
  const int64_t block = cached ? index / p.block_size : 0, offset = index - block * p.block_size;
  const int heads = p.h + 2 * p.g, step = kThreads / kLanes * static_cast<int>(gridDim.y);
  const T* row = static_cast<const T*>(p.qkv) + token * heads * kE;
  const int first = (blockIdx.y * kThreads + threadIdx.x) / kLanes;
  // All lanes of a warp run the same passes, for the shuffles of the norm.
  const int passes = (heads - (first - first % (32 / kLanes)) + step - 1) / step;
  for (int pass = 0; pass < passes; ++pass) {
    const int head = first + pass * step;
    const bool present = head < heads;
    const bool is_q = head < p.h, is_v = head >= p.h + p.g;
    Quad x = LoadQuad(row + (present ? head : 0) * kE, lane, kHalf);
    if (p.q_norm != nullptr) {
      const Quad y =
          Normalised<T, kE>(x, static_cast<const T*>(is_q ? p.q_norm : p.k_norm), lane, p.norm_eps);
      if (!is_v) x = y;
    }
    if (!is_v)
      x = {{x.low.x * cos.x - x.high.x * sin.x, x.low.y * cos.y - x.high.y * sin.y},
           {x.high.x * cos.x + x.low.x * sin.x, x.high.y * cos.y + x.low.y * sin.y}};
    if (!present || (!is_q && !cached)) continue;
    T* to = static_cast<T*>(p.q_out) + (token * p.h + head) * kE;
    if (!is_q) {
      const int kv_head = is_v ? head - p.h - p.g : head - p.h;
      to = static_cast<T*>(is_v ? p.v_cache : p.k_cache) +
           ((block * p.g + kv_head) * p.block_size + offset) * kE;
    }
    StoreQuad(to, lane, kHalf, x);
  }
}

template <typename T, int kE>
absl::Status Launch(const RopeKvWriteArgs& a, const Stream& stream) {
  constexpr int64_t kHeadsPerPass = kThreads / (kE / 4);
  const int64_t heads = a.h + 2 * a.g;
  const int64_t parts = a.t <= kFewTokens ? (heads + kHeadsPerPass - 1) / kHeadsPerPass : 1;
  RopeParams p{};
  p.qkv = a.qkv;
  p.positions = a.positions;
  p.kv_index = a.kv_index;
  p.inv_freq = a.inv_freq;
  p.q_norm = a.q_norm;
  p.k_norm = a.k_norm;
  p.q_out = a.q_out;
  p.k_cache = a.k_cache;
  p.v_cache = a.v_cache;
  p.cache_tokens = a.block_size > 0 ? a.cache_tokens : 0;
  p.h = static_cast<int32_t>(a.h);
  p.g = static_cast<int32_t>(a.g);
  p.block_size = static_cast<int32_t>(a.block_size);
  p.rope_scale = a.rope_scale;
  p.norm_eps = a.norm_eps;
  const LaunchShape shape{dim3(static_cast<unsigned>(a.t), static_cast<unsigned>(parts)),
                          dim3(kThreads), 0, stream.cuda};
  return LaunchDependent("rope_kv_write launch", RopeKvWriteKernel<T, kE>, shape, p);
}

}  // namespace

absl::Status RopeKvWriteCuda(const RopeKvWriteArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRopeKvWrite(a, Device::kCuda));
  if (a.t == 0 || a.h + a.g == 0) return absl::OkStatus();
  return VisitHalf(a.dtype, "rope_kv_write", [&]<typename T>(TypeTag<T>) {
    if (a.e == 32) return Launch<T, 32>(a, stream);
    if (a.e == 64) return Launch<T, 64>(a, stream);
    return Launch<T, 128>(a, stream);
  });
}

}  // namespace tessera
