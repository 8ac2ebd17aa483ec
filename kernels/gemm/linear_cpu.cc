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
#include "kernels/gemm/packed_linear_cpu.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kRowsPerBlock = 32;             // outputs between two passes over x
constexpr int64_t kPackedRowsPerBlock = 4;        // of these w is unpacked, and stays in the cache
constexpr int64_t kTokenBlockBytes = 512 * 1024;  // rows of x that stay in a core's L2 cache
constexpr int64_t kGrainMultiplies = 32 * 1024;   // less than this is not worth waking a thread

struct Source {
  const float* x;  // [t, k], normalised where asked
  DotBlockFn dot;
};

// A thread's scratch.
struct Scratch {
  std::vector<const void*> rows;  // of w, of a block of outputs
  std::vector<float> unpacked;    // those rows, of a packed w
  std::vector<float> sums;
};

bool IsPacked(const LinearArgs& a) { return a.packed.values != nullptr; }

// The rows of w that outputs [first, last) need: with a gate, its rows and then the others.
void FindRows(const LinearArgs& a, int64_t first, int64_t last, Scratch& scratch) {
  const auto* w = static_cast<const uint8_t*>(a.w);
  const int64_t row_bytes = a.k * SizeOf(a.weight_dtype), halves = a.gated ? 2 : 1;
  scratch.rows.clear();
  scratch.unpacked.resize(IsPacked(a) ? static_cast<size_t>(halves * (last - first) * a.k) : 0);
  float* unpacked = scratch.unpacked.data();
  for (int64_t half = 0; half < halves; ++half)
    for (int64_t n = first; n < last; ++n) {
      if (IsPacked(a)) {
        UnpackRow(a.packed, half * a.n + n, unpacked);
        scratch.rows.push_back(unpacked);
        unpacked += a.k;
      } else {
        scratch.rows.push_back(w + (half * a.n + n) * row_bytes);
      }
    }
}

float Silu(float v) { return v / (1.f + std::exp(-v)); }

// Outputs [first, last) of tokens [t0, t1), from the rows that FindRows() found.
void Block(const LinearArgs& a, const Source& source, int64_t t0, int64_t t1, int64_t first,
           int64_t last, Scratch& scratch) {
  const int64_t count = last - first;
  std::vector<float>& sums = scratch.sums;
  const auto row_count = static_cast<int64_t>(scratch.rows.size());
  sums.resize(static_cast<size_t>((t1 - t0) * row_count));
  source.dot({.x = source.x + t0 * a.k,
              .rows = scratch.rows.data(),
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

  Source source = {static_cast<const float*>(a.x),
                   DotBlockFor(IsPacked(a) ? DType::kF32 : a.weight_dtype)};
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
    Scratch scratch;
    const int64_t rows = IsPacked(a) ? kPackedRowsPerBlock : kRowsPerBlock;
    // Rows found once serve all tokens where that saves the unpacking; else x is read once.
    for (int64_t n = begin; IsPacked(a) && n < end; n += rows) {
      const int64_t last = std::min(end, n + rows);
      FindRows(a, n, last, scratch);
      for (int64_t t0 = 0; t0 < a.t; t0 += tokens)
        Block(a, source, t0, std::min(a.t, t0 + tokens), n, last, scratch);
    }
    for (int64_t t0 = 0; !IsPacked(a) && t0 < a.t; t0 += tokens)
      for (int64_t n = begin; n < end; n += rows) {
        const int64_t last = std::min(end, n + rows);
        FindRows(a, n, last, scratch);
        Block(a, source, t0, std::min(a.t, t0 + tokens), n, last, scratch);
      }
  });
  return absl::OkStatus();
}

absl::Status LinearSequenceCpu(const LinearSequenceArgs& args, const Stream& stream) {
  for (int i = 0; i < args.count; ++i) RETURN_IF_ERROR(LinearCpu(args.products[i], stream));
  return absl::OkStatus();
}

}  // namespace tessera
