// y = x W^T and what is fused with it: RMSNorm before, bias, residual or SiLU gate after.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[t, n] = norm(x)[t, k] * w[n, k]^T + bias[n] + residual[t, n], summed in fp32.
//   norm:     when `norm_weight` is set, x's rows are RMS-normalised first:
//             norm(x) = norm_weight * x * rsqrt(mean(x^2) + norm_eps), rounded once, to `dtype` or
//             finer
//   gated:    w is [2n, k], the n gate rows first; y = silu(gate) * up. No bias, no residual.
// All pointers are device memory of the stream's device, 16-byte aligned, rows contiguous.
struct LinearArgs {
  const void* x = nullptr;            // [t, k] of `dtype`
  const void* w = nullptr;            // [n, k] (or [2n, k]) of `weight_dtype`
  PackedWeight packed;                // instead of w when its values are set; n and k as w's
  const void* bias = nullptr;         // [n] of `dtype`, or null
  const void* residual = nullptr;     // [t, n] of `dtype`, or null; may be y itself
  void* y = nullptr;                  // [t, n] of `y_dtype`; must not overlap x
  const void* norm_weight = nullptr;  // [k] of `dtype`, or null
  float norm_eps = 0.f;
  bool gated = false;
  int64_t t = 0, n = 0, k = 0;
  DType dtype = DType::kF32;         // activations: kF32 on the CPU; kBf16 or kF16 on CUDA
  DType weight_dtype = DType::kF32;  // CPU: kF32, kBf16 or kF16. CUDA: `dtype`
  DType y_dtype = DType::kF32;       // `dtype`, or kF32 (logits)
  void* workspace = nullptr;         // scratch of LinearWorkspaceBytes() (linear_config.h) or more
  int64_t workspace_bytes = 0;
};

// Enqueues on `stream`; never synchronises or allocates. t = 0 or n = 0 is a no-op.
// On CUDA, w and norm_weight are read while the kernel before may still run: whatever writes them
// must be a copy or a plain launch, complete before the first call. The sum of an output depends on
// its row of x and of w only, never on t's other rows (CPU). With packed weights on CUDA and one
// row (or few, see PackedGemvServes()), elements of x count to 2^-22 of the largest of their 128 (8
// bits: 64), and one that is no finite number makes its row of y NaN. kInvalidArgument: negative
// size, k not a multiple of 8 (CUDA), gated with bias or residual, workspace too small; of a packed
// weight, named with the value seen and needed: bits that are not 4 or 8, n (2n when gated) or k
// other than the product's or no multiples of 8 and 16, no scales, groups of a size that no kernel
// takes or too few to cover k. kUnimplemented: a dtype combination other than those above.
// kInternal: the launch was refused.
absl::Status LinearCpu(const LinearArgs& args, const Stream& stream);
absl::Status LinearCuda(const LinearArgs& args, const Stream& stream);

// Products one after the other, as by LinearCpu or LinearCuda: one may read as x or residual what
// those before it wrote; weights, norm weights and biases none of them writes. CUDA may compute
// several in one launch, whose blocks wait for each other: two sequences must not run at once on a
// device. Errors as above, some of the products may then be enqueued.
struct LinearSequenceArgs {
  const LinearArgs* products = nullptr;
  int count = 0;
};
absl::Status LinearSequenceCpu(const LinearSequenceArgs& args, const Stream& stream);
absl::Status LinearSequenceCuda(const LinearSequenceArgs& args, const Stream& stream);

}  // namespace tessera
