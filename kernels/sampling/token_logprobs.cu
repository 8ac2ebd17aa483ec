#include <cmath>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/sampling/logits_row.cuh"
#include "kernels/sampling/sample_check.h"

namespace tessera {
namespace {

constexpr int kThreads = 1024;

constexpr int kAhead = 8;  // loads under way a thread

// A largest logit and the sum of exp(logit - largest).
struct Running {
  float best = kNoLogit, sum = 0.f;

  __device__ __forceinline__ void Rescale(float to) {
    if (to == best) return;
    sum *= expf(best - to);  // `best` is below `to`, so this is below 1, 0 from -inf
    best = to;
  }
  __device__ __forceinline__ void Add(float logit) {
    sum += logit == best ? 1.f : expf(logit - best);
  }
};

// One pass over the row. A thread's share is summed batch by batch of 32 logits, in a fixed order.
__device__ Running SumShare(const LogitsView& view, int64_t row) {
  constexpr int64_t kStep = int64_t{kThreads} * kGroup;
  Running running;
#pragma unroll 1
  for (int64_t first = threadIdx.x * kGroup; first < view.vocab; first += kAhead * kStep) {
    float logit[kAhead][kGroup];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t id = first + j * kStep;
      float4 group = {kNoLogit, kNoLogit, kNoLogit, kNoLogit};
      if (id < view.vocab) group = LoadGroup(view, row, id);
      logit[j][0] = CleanLogit(group.x);
      logit[j][1] = CleanLogit(group.y);
      logit[j][2] = CleanLogit(group.z);
      logit[j][3] = CleanLogit(group.w);
      if (id + kGroup <= view.vocab) continue;
      for (int e = 1; e < kGroup; ++e)  // the vocabulary's last group
        if (id + e >= view.vocab) logit[j][e] = kNoLogit;
    }
    float best = running.best;
    for (int i = 0; i < kAhead * kGroup; ++i) best = MaxOp()(best, logit[i / kGroup][i % kGroup]);
    if (best == kNoLogit) continue;
    running.Rescale(best);
    for (int i = 0; i < kAhead * kGroup; ++i) running.Add(logit[i / kGroup][i % kGroup]);
  }
  return running;
}

// Block i owns out[i]. Grid rows, block kThreads.
__global__ void __launch_bounds__(kThreads) TokenLogprobsKernel(TokenLogprobsArgs a) {
  __shared__ float scratch[kThreads / kWarp];
  WaitForPrevious();
  LetNextStart();
  const int64_t row = blockIdx.x;
  const int32_t target = a.targets[row];
  if (target < 0 || target >= a.logits.vocab) {
    if (threadIdx.x == 0) a.out[row] = 0.f;
    return;
  }
  Running running = SumShare(a.logits, row);
  const float best = BlockReduce<MaxOp, kThreads>(running.best, scratch);
  running.Rescale(best);
  const float sum = BlockReduce<SumOp, kThreads>(running.sum, scratch);
  if (threadIdx.x != 0) return;
  const float logit = CleanLogit(a.logits.data[LogitOffset(a.logits, row, target)]);
  const float below = logit == best ? 0.f : logit - best;
  a.out[row] = best == kNoLogit ? kNoLogit : below - logf(sum);
}

}  // namespace

absl::Status TokenLogprobsCuda(const TokenLogprobsArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckLogits(args.logits, "token_logprobs"));
  if (args.logits.rows == 0) return absl::OkStatus();
  const dim3 grid(static_cast<unsigned>(args.logits.rows));
  return LaunchDependent("token_logprobs launch", TokenLogprobsKernel,
                         {.grid = grid, .block = dim3(kThreads), .stream = stream.cuda}, args);
}

}  // namespace tessera
