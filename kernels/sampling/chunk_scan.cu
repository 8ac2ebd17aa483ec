#include <cmath>

#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/sampling/logits_row.cuh"
#include "kernels/sampling/sample_kernels.h"
#include "kernels/sampling/sample_workspace.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int kGroups = kSampleChunk / kThreads / kGroup;  // groups of 4 logits a thread holds

// A thread's share of a chunk, in registers: group j of thread i starts at id
// first + (j * kThreads + i) * kGroup. Logits are clean; those of ids past the vocabulary are not
// used.
struct Share {
  float logit[kGroups][kGroup];
  int64_t first;
  int64_t vocab;

  __device__ int64_t Id(int j, int e) const {
    return first + (int64_t{j} * kThreads + threadIdx.x) * kGroup + e;
  }
  // Calls body(logit, id) for each of the thread's ids.
  template <typename Body>
  __device__ __forceinline__ void ForEach(Body body) const {
#pragma unroll
    for (int j = 0; j < kGroups; ++j)
#pragma unroll
      for (int e = 0; e < kGroup; ++e)
        if (Id(j, e) < vocab) body(logit[j][e], Id(j, e));
  }
};

__device__ Share LoadShare(const LogitsView& view, int64_t row, int64_t chunk) {
  Share s;
  s.first = chunk * kSampleChunk;
  s.vocab = view.vocab;
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    if (s.Id(j, 0) >= s.vocab) continue;
    const float4 v = LoadGroup(view, row, s.Id(j, 0));
    s.logit[j][0] = CleanLogit(v.x);
    s.logit[j][1] = CleanLogit(v.y);
    s.logit[j][2] = CleanLogit(v.z);
    s.logit[j][3] = CleanLogit(v.w);
  }
  return s;
}

// The chunk's best penalised candidate. A thread meets its ids in rising order, so that keeping the
// first of equals keeps the lowest.
__device__ uint64_t BestOf(const Share& share, const PenaltyRow& penalties, uint64_t* scratch) {
  float best = kNoLogit;
  int64_t best_id = -1;
  share.ForEach([&](float logit, int64_t id) {
    const float value = Penalised(penalties, logit, id);
    if (value > best || best_id < 0) {
      best = value;
      best_id = id;
    }
  });
  return BlockReduce<MaxOp, kThreads>(best_id < 0 ? 0 : PackCandidate(best, best_id), scratch);
}

// Largest logit and sum of exp(logit - largest) of the chunk.
__device__ float2 ExpSumOf(const Share& share, float* scratch) {
  float best = kNoLogit;
  share.ForEach([&](float logit, int64_t) { best = MaxOp()(best, logit); });
  best = BlockReduce<MaxOp, kThreads>(best, scratch);
  float sum = 0.f;
  share.ForEach([&](float logit, int64_t) { sum += logit == best ? 1.f : expf(logit - best); });
  return {best, BlockReduce<SumOp, kThreads>(sum, scratch)};
}

// The `wanted` best unpenalised candidates of the chunk, one at a time: every thread offers its
// best, and the one whose offer won looks for its next.
__device__ void WriteTop(const Share& share, int wanted, uint64_t* top, uint64_t* scratch) {
  uint64_t below = ~uint64_t{0}, offer = 0;
  for (int n = 0; n < wanted; ++n) {
    if (n == 0 || offer == below) {
      offer = 0;
      share.ForEach([&](float logit, int64_t id) {
        const uint64_t candidate = PackCandidate(logit, id);
        if (candidate < below) offer = MaxOp()(offer, candidate);
      });
    }
    below = BlockReduce<MaxOp, kThreads>(offer, scratch);
    if (threadIdx.x == 0) top[n] = below;
    if (below == 0) {  // the chunk has no more ids
      for (int rest = n + 1 + static_cast<int>(threadIdx.x); rest < wanted; rest += kThreads)
        top[rest] = 0;
      return;
    }
  }
}

// Clears this chunk's part of the row's bins for WeightBins.
__device__ void ClearBins(const SampleKernelArgs& k, int64_t row, int64_t chunk) {
  for (int64_t bin = chunk * kThreads + threadIdx.x; bin < kWeightBins;
       bin += k.chunks * kThreads) {
    k.bin_mass[row * kWeightBins + bin] = 0;
    k.bin_count[row * kWeightBins + bin] = 0;
  }
  if (chunk == 0 && threadIdx.x == 0) k.min_p_mass[row] = 0;
}

// Block (row, chunk) owns entry [row, chunk] of every array it writes. Grid (rows, chunks), block
// kThreads; each thread holds 32 logits, all loaded before the first is used. Without
// log-probabilities the kernel needs half the registers, so twice the loads are under way.
template <bool kLogprobs>
__global__ void __launch_bounds__(kThreads) ChunkScanKernel(SampleKernelArgs k) {
  __shared__ uint64_t scratch[kThreads / kWarp];
  __shared__ float float_scratch[kThreads / kWarp];
  WaitForPrevious();
  LetNextStart();
  const SampleArgs& a = k.sample;
  const int64_t row = blockIdx.x, chunk = blockIdx.y, at = row * k.chunks + chunk;
  const int32_t slot = a.seq_slot[row];
  if (slot < 0 || a.draw_index[row] < 0) return;
  const Share share = LoadShare(a.logits, row, chunk);
  if (!a.all_greedy) ClearBins(k, row, chunk);
  const PenaltyRow penalties = a.all_greedy ? PenaltyRow{} : PenaltiesOf(a, slot);
  const uint64_t best = BestOf(share, penalties, scratch);
  if (threadIdx.x == 0) k.best[at] = best;
  if constexpr (!kLogprobs) return;
  const float2 sum = ExpSumOf(share, float_scratch);
  if (threadIdx.x == 0) {
    k.raw_best[at] = sum.x;
    k.raw_sum[at] = sum.y;
  }
  const int wanted = min(a.params[slot].logprobs, static_cast<int>(kMaxTopLogprobs));
  WriteTop(share, wanted, k.top + at * kMaxTopLogprobs, scratch);
}

}  // namespace

absl::Status LaunchChunkScan(const SampleKernelArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.sample.logits.rows),
                  static_cast<unsigned>(args.chunks));
  return LaunchDependent("sample: chunk scan launch",
                         args.sample.any_logprobs ? ChunkScanKernel<true> : ChunkScanKernel<false>,
                         {.grid = grid, .block = dim3(kThreads), .stream = stream}, args);
}

}  // namespace tessera
