// Sums over the GPUs of one host in one hop: every rank writes its part straight into its peers'
// memory and sums all parts itself, in rank order in fp32, so all ranks get the same bits. The data
// are their own flag: a word that still has all bits set has not come, and a word of data with all
// bits set (a NaN) is sent as another NaN. There is no barrier and no host argument that changes
// from call to call, so replays of a CUDA graph work.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/comm/peer_group.h"
#include "kernels/gemm/column_places.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// residual[t, d] += sum over ranks of partial[t, d], added in fp32 and rounded once to `dtype`;
// with a weight, y[t, d] = RMSNorm(residual) as rms_norm.h rounds it.
struct OneShotAllReduceNormArgs {
  PeerGroup peers;
  const void* partial = nullptr;  // [t, d] of `dtype`, device, aligned to 16 bytes as all of these
  void* residual = nullptr;       // [t, d] of `dtype`
  const void* weight = nullptr;   // [d] of `dtype`, or null: y is not written
  void* y = nullptr;              // [t, d] of `dtype`; no overlap with the others
  ColumnCopies copies;            // of y, one after the other, as in rms_norm.h
  int64_t t = 0, d = 0;
  float eps = 0.f;
  DType dtype = DType::kBf16;
  OneShotShape shape;  // ChooseOneShotShape(d * SizeOf(dtype), compute capability), same everywhere
};

// Enqueues on a CUDA stream; never synchronises. t or d of zero is a no-op. kInvalidArgument:
// negative size, d not a multiple of 8, a shape that does not cover d, more cells than the region
// has, or copies that rms_norm.h calls invalid. kUnimplemented: dtype other than kBf16, kF16.
// kInternal: the launch was refused.
absl::Status LaunchOneShotAllReduceNorm(const OneShotAllReduceNormArgs& args, cudaStream_t stream);

// data[count] = sum over ranks, rounded once to `dtype`.
struct OneShotAllReduceSumArgs {
  PeerGroup peers;
  void* data = nullptr;  // [count] of `dtype`, device, aligned to 16 bytes
  int64_t count = 0;
  DType dtype = DType::kBf16;
};

// As above. kInvalidArgument: negative count or more cells than the region has. kUnimplemented:
// dtype other than kBf16, kF16, kF32.
absl::Status LaunchOneShotAllReduceSum(const OneShotAllReduceSumArgs& args, cudaStream_t stream);

}  // namespace tessera
