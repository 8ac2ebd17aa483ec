#include <algorithm>
#include <cmath>
#include <vector>

#include <absl/status/status.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/gemm/place_row_cpu.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/norm/rms_norm_check.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kGrainElements = 16 * 1024;  // less than this is not worth waking a thread

// Element i is summed in lane i % 16, in rising i; the lanes are added as a tree.
float SumOfSquares(const float* x, int64_t d) {
  float lanes[kLanes] = {};
  const int64_t whole = d - d % kLanes;
  for (int64_t at = 0; at < whole; at += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += x[at + i] * x[at + i];
  for (int64_t i = 0; i < d - whole; ++i) lanes[i] += x[whole + i] * x[whole + i];
  for (int64_t step = kLanes / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  return lanes[0];
}

// Row i of [t, d] into `y`.
void NormRow(const RmsNormArgs& a, int64_t i, float* y) {
  const auto* weight = static_cast<const float*>(a.weight);
  const int64_t row = a.rows != nullptr ? a.rows[i] : i;
  if (row < 0) {
    std::fill(y, y + a.d, 0.f);
    return;
  }
  const float* x = static_cast<const float*>(a.x) + row * a.d;
  if (a.add != nullptr) {
    float* residual = static_cast<float*>(a.residual) + i * a.d;
    const float* add = static_cast<const float*>(a.add) + i * a.d;
    for (int64_t j = 0; j < a.d; ++j) residual[j] += add[j];
    x = residual;
  }
  const float scale = 1.f / std::sqrt(SumOfSquares(x, a.d) / static_cast<float>(a.d) + a.eps);
  for (int64_t j = 0; j < a.d; ++j) y[j] = weight[j] * (x[j] * scale);
}

// The same into every copy of y; `row` is scratch of d.
void NormRowInOrders(const RmsNormArgs& a, int64_t i, float* row) {
  NormRow(a, i, row);
  float* copy = static_cast<float*>(a.y);
  for (int c = 0; c < a.copies.count; ++c) {
    const int64_t width = a.copies.copies[c].WidthOf(a.d);
    PlaceRow(row, a.copies.copies[c].places, a.d, copy + i * width);
    copy += a.t * width;
  }
}

}  // namespace

absl::Status RmsNormCpu(const RmsNormArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRmsNorm(a, Device::kCpu));
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  TESSERA_CHECK(stream.pool != nullptr, "rms_norm: the stream has no CPU pool");
  const int64_t grain = std::max<int64_t>(1, kGrainElements / a.d);
  stream.pool->ParallelFor(a.t, grain, [&](int64_t begin, int64_t end) {
    if (a.copies.count == 0) {
      for (int64_t i = begin; i < end; ++i) NormRow(a, i, static_cast<float*>(a.y) + i * a.d);
      return;
    }
    std::vector<float> row(static_cast<size_t>(a.d));
    for (int64_t i = begin; i < end; ++i) NormRowInOrders(a, i, row.data());
  });
  return absl::OkStatus();
}

}  // namespace tessera
