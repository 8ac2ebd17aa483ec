#include <algorithm>
#include <cstdint>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/rope/rope_kv_write.h"
#include "kernels/rope/rope_kv_write_check.h"
#include "kernels/rope/rotate_head.cuh"

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
  HeadRotation rotation;
  void *q_out, *k_cache, *v_cache;
  int64_t cache_tokens;
  int32_t h, g, block_size;
};

// Grid (t, parts of the heads), block kThreads. kE / 4 lanes own a head, four elements each, so a
// warp takes 1, 2 or 4 heads at a time; heads are q, k, v in the order of a qkv row.
template <typename T, int kE>
__global__ void __launch_bounds__(kThreads) RopeKvWriteKernel(RopeParams p) {
  constexpr int kLanes = kE / 4;
  const int lane = threadIdx.x % kLanes;
  LetNextStart();
  const HeadRotation& r = p.rotation;
  const float frequency0 = r.inv_freq[2 * lane], frequency1 = r.inv_freq[2 * lane + 1];
  WaitForPrevious();
  const int64_t token = blockIdx.x;
  const int position = p.positions[token];
  const float2 turn0 = TurnAt(position, frequency0, r.scale);
  const float2 turn1 = TurnAt(position, frequency1, r.scale);
  const float4 turn{turn0.x, turn0.y, turn1.x, turn1.y};
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
    HeadWords words = LoadHead<T, kE>(row + (present ? head : 0) * kE, lane);
    HeadQuad x = Unpack<T>(words);
    if (r.q_norm != nullptr) {
      const auto* weight = static_cast<const T*>(is_q ? r.q_norm : r.k_norm);
      x = Normalised<kE>(x, Unpack<T>(LoadHead<T, kE>(weight, lane)), r.norm_eps);
    }
    if (!is_v) words = Pack<T>(Rotated(x, turn));
    if (!present || (!is_q && !cached)) continue;
    T* to = static_cast<T*>(p.q_out) + (token * p.h + head) * kE;
    if (!is_q) {
      const int kv_head = is_v ? head - p.h - p.g : head - p.h;
      to = static_cast<T*>(is_v ? p.v_cache : p.k_cache) +
           ((block * p.g + kv_head) * p.block_size + offset) * kE;
    }
    auto* to_words = reinterpret_cast<uint32_t*>(to);
    to_words[lane] = words.low;
    to_words[lane + kE / 4] = words.high;
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
  p.rotation = a.rotation;
  p.q_out = a.q_out;
  p.k_cache = a.k_cache;
  p.v_cache = a.v_cache;
  p.cache_tokens = a.block_size > 0 ? a.cache_tokens : 0;
  p.h = static_cast<int32_t>(a.h);
  p.g = static_cast<int32_t>(a.g);
  p.block_size = static_cast<int32_t>(a.block_size);
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
