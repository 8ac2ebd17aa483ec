#include <cmath>

#include "kernels/device/launch.cuh"
#include "kernels/sampling/row_cut.cuh"
#include "kernels/sampling/sample_kernels.h"
#include "kernels/sampling/sample_workspace.h"

namespace tessera {
namespace {

constexpr int kGreedyThreads = 256;

// Best candidate of the row over its chunks.
template <int kThreads>
__device__ uint64_t RowBest(const SampleKernelArgs& k, int64_t row, uint64_t* scratch) {
  uint64_t best = 0;
  for (int64_t c = threadIdx.x; c < k.chunks; c += kThreads)
    best = MaxOp()(best, k.best[row * k.chunks + c]);
  return BlockReduce<MaxOp, kThreads>(best, scratch);
}

// Draws an id from the row: see sample_math.h.
__device__ int32_t DrawId(const SampleKernelArgs& k, CutShared& s, const CutRow& r) {
  const SamplingParams& p = r.penalties.params;
  for (int bin = threadIdx.x; bin < kWeightBins; bin += kCutThreads) {
    s.mass[bin] = k.bin_mass[r.row * kWeightBins + bin];
    s.count[bin] = k.bin_count[r.row * kWeightBins + bin];
  }
  if (threadIdx.x == 0) s.list_first = s.list_last = -1;
  __syncthreads();
  SumBins(s);

  uint64_t kept = s.mass[kWeightBins - 1];
  if (p.top_k > 0 && p.top_k < s.count[kWeightBins - 1])
    kept = MassOfTop(s, r, static_cast<uint32_t>(p.top_k));
  uint64_t mass = kept;
  if (p.top_p < 1.f) mass = min(mass, Reach(s, r, TopPGoal(kept, p.top_p)).sum);
  if (p.min_p > 0.f) mass = min(mass, static_cast<uint64_t>(k.min_p_mass[r.row]));
  return Reach(s, r, DrawTarget(p, k.sample.draw_index[r.row], mass) + 1).id;
}

__device__ __forceinline__ float LogprobOf(float logit, float best, float log_sum) {
  if (best == kNoLogit) return kNoLogit;
  return (logit == best ? 0.f : logit - best) - log_sum;
}

// The block's first warp merges the chunks' sums; every thread merges their top candidates, staged
// in `staged`, shared memory of chunks * wanted: one of rank n among all is the row's number n.
template <int kThreads>
__device__ void WriteLogprobs(const SampleKernelArgs& k, int64_t row, int32_t id, int wanted,
                              uint64_t* staged) {
  const SampleArgs& a = k.sample;
  __shared__ float shared_best, shared_log_sum;
  if (threadIdx.x < kWarp) {
    const float* bests = k.raw_best + row * k.chunks;
    float best = kNoLogit, sum = 0.f;
    for (int64_t c = threadIdx.x; c < k.chunks; c += kWarp) best = MaxOp()(best, bests[c]);
    best = WarpReduce<MaxOp>(best);
    for (int64_t c = threadIdx.x; c < k.chunks; c += kWarp)
      sum += k.raw_sum[row * k.chunks + c] * (bests[c] == best ? 1.f : expf(bests[c] - best));
    sum = WarpReduce<SumOp>(sum);
    if (threadIdx.x == 0) {
      shared_best = best;
      shared_log_sum = logf(sum);
      const float logit = CleanLogit(a.logits.data[LogitOffset(a.logits, row, id)]);
      a.logprobs[row] = LogprobOf(logit, best, shared_log_sum);
    }
  }
  const int count = static_cast<int>(k.chunks) * wanted;
  const uint64_t* top = k.top + row * k.chunks * kMaxTopLogprobs;
  for (int i = threadIdx.x; i < count; i += kThreads)
    staged[i] = top[i / wanted * kMaxTopLogprobs + i % wanted];
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const uint64_t mine = staged[i];
    if (mine == 0) continue;
    int rank = 0;
#pragma unroll 8
    for (int j = 0; j < count; ++j) rank += staged[j] > mine ? 1 : 0;
    if (rank >= wanted) continue;
    a.top_ids[row * kMaxTopLogprobs + rank] = IdOf(mine);
    a.top_logprobs[row * kMaxTopLogprobs + rank] =
        LogprobOf(LogitOf(KeyOf(mine)), shared_best, shared_log_sum);
  }
}

// Block i owns row i's outputs. Grid rows. kThreads is kGreedyThreads for a batch that draws
// nothing, so that the block starts quickly, with shared memory for the top candidates; else
// kCutThreads and CutShared's 145 KB.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) ChooseIdsKernel(SampleKernelArgs k) {
  extern __shared__ uint64_t dynamic_shared[];
  __shared__ uint64_t scratch[kThreads / kWarp];
  WaitForPrevious();
  LetNextStart();
  const SampleArgs& a = k.sample;
  const int64_t row = blockIdx.x;
  const int32_t slot = a.seq_slot[row];
  const bool skipped = slot < 0 || a.draw_index[row] < 0;
  int wanted = 0;
  if (a.any_logprobs) {
    if (!skipped) wanted = min(max(a.params[slot].logprobs, 0), static_cast<int>(kMaxTopLogprobs));
    const int64_t filled = min(int64_t{wanted}, a.logits.vocab);
    for (int64_t i = filled + threadIdx.x; i < kMaxTopLogprobs; i += kThreads) {
      a.top_ids[row * kMaxTopLogprobs + i] = -1;
      a.top_logprobs[row * kMaxTopLogprobs + i] = 0.f;
    }
    if (skipped && threadIdx.x == 0) a.logprobs[row] = 0.f;
  }
  if (skipped) {
    if (threadIdx.x == 0) a.ids[row] = -1;
    return;
  }
  const uint64_t best = RowBest<kThreads>(k, row, scratch);
  int32_t id = IdOf(best);
  if constexpr (kThreads == kCutThreads) {
    const CutRow r = {a.logits, row, PenaltiesOf(a, slot), LogitOf(KeyOf(best))};
    if (!IsGreedy(r.penalties.params) && r.best != kNoLogit)
      id = DrawId(k, *reinterpret_cast<CutShared*>(dynamic_shared), r);
  }
  if (threadIdx.x == 0) a.ids[row] = id;
  __syncthreads();  // CutShared is read no more
  if (a.any_logprobs) WriteLogprobs<kThreads>(k, row, id, wanted, dynamic_shared);
}

}  // namespace

absl::Status LaunchChooseIds(const SampleKernelArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.sample.logits.rows));
  constexpr auto kMaxTop = SampleChunks(kMaxVocab) * kMaxTopLogprobs * sizeof(uint64_t);
  static_assert(kMaxTop <= 48 * 1024 && kMaxTop <= sizeof(CutShared));
  if (args.sample.all_greedy) {
    const auto top = static_cast<size_t>(args.chunks * kMaxTopLogprobs) * sizeof(uint64_t);
    return LaunchDependent("sample: choose greedy ids launch", ChooseIdsKernel<kGreedyThreads>,
                           {.grid = grid,
                            .block = dim3(kGreedyThreads),
                            .shared_bytes = args.sample.any_logprobs ? top : 0,
                            .stream = stream},
                           args);
  }
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(ChooseIdsKernel<kCutThreads>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(CutShared)),
      "sample: choose ids shared memory");
  return LaunchDependent("sample: choose ids launch", ChooseIdsKernel<kCutThreads>,
                         {.grid = grid,
                          .block = dim3(kCutThreads),
                          .shared_bytes = sizeof(CutShared),
                          .stream = stream},
                         args);
}

}  // namespace tessera
