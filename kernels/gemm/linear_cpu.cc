#include <algorithm>
#include <cmath>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/gemm/dot_block_cpu.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kRowsPerBlock = 32;             // outputs between two passes over x
constexpr int64_t kTokenBlockBytes = 512 * 1024;  // rows of x that stay in a core's L2 cache
constexpr int64_t kGrainMultiplies = 32 * 1024;   // less than this is not worth waking a thread

struct Source {
  const float* x;  // [t, k], normalised where asked
  DotBlockFn dot;
};

float Silu(float v) { return v / (1.f + std::exp(-v)); }

// Outputs [first, last) of tokens [t0, t1); `rows` and `sums` are scratch.
void Block(const LinearArgs& a, const Source& source, int64_t t0, int64_t t1, int64_t first,
           int64_t last, std::vector<const void*>& rows, std::vector<float>& sums) {
  const auto* w = static_cast<const uint8_t*>(a.w);
  const int64_t row_bytes = a.k * SizeOf(a.weight_dtype), count = last - first;
  rows.clear();
  for (int64_t n = first; n < last; ++n) rows.push_back(w + n * row_bytes);
  if (a.gated)
    for (int64_t n = first; n < last; ++n) rows.push_back(w + (a.n + n) * row_bytes);
  const auto row_count = static_cast<int64_t>(rows.size());
  sums.resize(static_cast<size_t>((t1 - t0) * row_count));
  source.dot({.x = source.x + t0 * a.k,
              .rows = rows.data(),
              .out = sums.data(),
              .t = t1 - t0,
              .k = a.k,
              .row_count = row_count});

  const auto* bias = static_cast<const float*>(a.bias);
  const auto* residual = static_cast<const float*>(a.residual);
  for (int64_t t = t0; t < t1; ++t) {
    const float* sum = sums.data() + (t - t0) * row_count;
    float* y = static_cast<float*>(a.y) + t * a.n;
    for (int64_t n = first; n < last; ++n) {
      float value = sum[n - first];
      if (a.gated) value = Silu(value) * sum[count + n - first];
      if (bias != nullptr) value += bias[n];
      if (residual != nullptr) value += residual[t * a.n + n];
      y[n] = value;
    }
  }
}

}  // namespace

absl::Status LinearCpu(const LinearArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckLinear(a, Device::kCpu, /*sm_count=*/1));
  if (a.t == 0 || a.n == 0) return absl::OkStatus();
  TESSERA_CHECK(stream.pool != nullptr, "linear: the stream has no CPU pool");

  Source source = {static_cast<const float*>(a.x), DotBlockFor(a.weight_dtype)};
  if (a.norm_weight != nullptr) {
    RETURN_IF_ERROR(RmsNormCpu({.x = a.x,
                                .weight = a.norm_weight,
                                .y = a.workspace,
                                .t = a.t,
                                .d = a.k,
                                .eps = a.norm_eps,
                                .dtype = a.dtype},
                               stream));
    source.x = static_cast<const float*>(a.workspace);
  }

  const int64_t x_row_bytes = std::max<int64_t>(1, a.k * static_cast<int64_t>(sizeof(float)));
  const int64_t tokens = std::max<int64_t>(4, kTokenBlockBytes / x_row_bytes / 4 * 4);
  const int64_t grain = std::max<int64_t>(1, kGrainMultiplies / std::max<int64_t>(1, a.t * a.k));
  stream.pool->ParallelFor(a.n, grain, [&](int64_t begin, int64_t end) {
    std::vector<const void*> rows;
    std::vector<float> sums;
    for (int64_t t0 = 0; t0 < a.t; t0 += tokens)
      for (int64_t n = begin; n < end; n += kRowsPerBlock)
        Block(a, source, t0, std::min(a.t, t0 + tokens), n, std::min(end, n + kRowsPerBlock), rows,
              sums);
  });
  return absl::OkStatus();
}

}  // namespace tessera
