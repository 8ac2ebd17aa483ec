#include <algorithm>
#include <cmath>

#include <absl/status/status.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/rope/rope_kv_write.h"
#include "kernels/rope/rope_kv_write_check.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kMaxHeadSize = 128;
constexpr int64_t kGrainElements = 4 * 1024;  // less than this is not worth waking a thread

// The factors of one token, shared by all its heads.
struct Rotation {
  float cos[kMaxHeadSize / 2];
  float sin[kMaxHeadSize / 2];
};

Rotation RotationAt(const RopeKvWriteArgs& a, int64_t token) {
  Rotation rotation;
  for (int64_t j = 0; j < a.e / 2; ++j) {
    const float angle = static_cast<float>(a.positions[token]) * a.rotation.inv_freq[j];
    rotation.cos[j] = std::cos(angle) * a.rotation.scale;
    rotation.sin[j] = std::sin(angle) * a.rotation.scale;
  }
  return rotation;
}

void NormAndRotate(const RopeKvWriteArgs& a, const Rotation& rotation, const float* x,
                   const float* norm, float* out) {
  const int64_t half = a.e / 2;
  float y[kMaxHeadSize];
  std::copy(x, x + a.e, y);
  if (norm != nullptr) {
    float sum = 0.f;
    for (int64_t j = 0; j < a.e; ++j) sum += x[j] * x[j];
    const float scale = 1.f / std::sqrt(sum / static_cast<float>(a.e) + a.rotation.norm_eps);
    for (int64_t j = 0; j < a.e; ++j) y[j] = norm[j] * (x[j] * scale);
  }
  for (int64_t j = 0; j < half; ++j) {
    out[j] = y[j] * rotation.cos[j] - y[j + half] * rotation.sin[j];
    out[j + half] = y[j + half] * rotation.cos[j] + y[j] * rotation.sin[j];
  }
}

void WriteToken(const RopeKvWriteArgs& a, int64_t token) {
  const Rotation rotation = RotationAt(a, token);
  const float* q = static_cast<const float*>(a.qkv) + token * (a.h + 2 * a.g) * a.e;
  const float* k = q + a.h * a.e;
  const float* v = k + a.g * a.e;
  float* q_out = static_cast<float*>(a.q_out) + token * a.h * a.e;
  for (int64_t i = 0; i < a.h; ++i)
    NormAndRotate(a, rotation, q + i * a.e, static_cast<const float*>(a.rotation.q_norm),
                  q_out + i * a.e);
  const int64_t index = a.kv_index[token];
  if (index < 0 || index >= a.cache_tokens || a.block_size == 0) return;
  const int64_t block = index / a.block_size, offset = index % a.block_size;
  for (int64_t i = 0; i < a.g; ++i) {
    const int64_t at = ((block * a.g + i) * a.block_size + offset) * a.e;
    NormAndRotate(a, rotation, k + i * a.e, static_cast<const float*>(a.rotation.k_norm),
                  static_cast<float*>(a.k_cache) + at);
    std::copy(v + i * a.e, v + (i + 1) * a.e, static_cast<float*>(a.v_cache) + at);
  }
}

}  // namespace

absl::Status RopeKvWriteCpu(const RopeKvWriteArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRopeKvWrite(a, Device::kCpu));
  if (a.t == 0) return absl::OkStatus();
  TESSERA_CHECK(stream.pool != nullptr, "rope_kv_write: the stream has no CPU pool");
  const int64_t row = std::max<int64_t>(1, (a.h + 2 * a.g) * a.e);
  stream.pool->ParallelFor(a.t, std::max<int64_t>(1, kGrainElements / row),
                           [&](int64_t begin, int64_t end) {
                             for (int64_t i = begin; i < end; ++i) WriteToken(a, i);
                           });
  return absl::OkStatus();
}

}  // namespace tessera
