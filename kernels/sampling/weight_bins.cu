#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/sampling/logits_row.cuh"
#include "kernels/sampling/sample_kernels.h"
#include "kernels/sampling/sample_workspace.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
// Ids a block takes: few rows need many blocks to fill the GPU, many rows few bins to add up.
constexpr int64_t kFewRows = 4, kFewRowsIds = 2048, kManyRowsIds = 8192;

// Bins of a chunk in shared memory. 64-bit sums in two halves: shared memory adds 32-bit integers
// in hardware, 64-bit ones in a loop.
struct Bins {
  uint32_t count[kWeightBins];
  uint32_t low[kWeightBins];
  uint32_t high[kWeightBins];
};

__device__ __forceinline__ void Add(Bins& bins, int bin, uint64_t weight) {
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t carry = atomicAdd(&bins.low[bin], low) > ~low ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + carry;
  if (high != 0) atomicAdd(&bins.high[bin], high);
  atomicAdd(&bins.count[bin], 1u);
}

// The row's best penalised candidate, from ChunkScan.
__device__ uint64_t RowBest(const SampleKernelArgs& k, int64_t row, uint64_t* scratch) {
  uint64_t best = 0;
  for (int64_t c = threadIdx.x; c < k.chunks; c += kThreads)
    best = MaxOp()(best, k.best[row * k.chunks + c]);
  return BlockReduce<MaxOp, kThreads>(best, scratch);
}

// Block (row, part) bins ids [part * ids, (part + 1) * ids) in shared memory, then adds them to the
// row's bins. All sums are integers, so neither the order in which blocks and threads add nor `ids`
// shows. Grid (rows, parts), block kThreads, 16 KB of shared memory.
__global__ void __launch_bounds__(kThreads) WeightBinsKernel(SampleKernelArgs k, int64_t ids) {
  __shared__ Bins bins;
  __shared__ uint64_t scratch[kThreads / kWarp];
  for (int bin = threadIdx.x; bin < kWeightBins; bin += kThreads)
    bins.count[bin] = bins.low[bin] = bins.high[bin] = 0;
  WaitForPrevious();
  LetNextStart();
  const SampleArgs& a = k.sample;
  const int64_t row = blockIdx.x, begin = blockIdx.y * ids;
  const int32_t slot = a.seq_slot[row];
  if (slot < 0 || a.draw_index[row] < 0) return;
  const PenaltyRow penalties = PenaltiesOf(a, slot);
  const float temperature = penalties.params.temperature;
  const float best = LogitOf(KeyOf(RowBest(k, row, scratch)));  // its barriers cover the clearing
  if (IsGreedy(penalties.params) || best == kNoLogit) return;

  const uint64_t least = MinPWeight(penalties.params.min_p);
  uint64_t min_p_mass = 0;
  const int64_t end = min(begin + ids, a.logits.vocab);
  float4 next = {};
  int64_t id = begin + threadIdx.x * kGroup;
  if (id < end) next = LoadGroup(a.logits, row, id);
#pragma unroll 1
  for (; id < end; id += kThreads * kGroup) {
    const float logits[kGroup] = {next.x, next.y, next.z, next.w};
    if (id + kThreads * kGroup < end) next = LoadGroup(a.logits, row, id + kThreads * kGroup);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      if (id + e >= end) continue;
      const float logit = Penalised(penalties, CleanLogit(logits[e]), id + e);
      const uint64_t distance = DistanceOf(logit, best, temperature);
      const uint64_t weight = WeightOf(distance);
      if (weight == 0) continue;
      Add(bins, BinOf(distance), weight);
      if (weight >= least) min_p_mass += weight;
    }
  }
  min_p_mass = BlockReduce<SumOp, kThreads>(min_p_mass, scratch);  // its barriers cover the bins
  if (threadIdx.x == 0 && min_p_mass != 0) atomicAdd(&k.min_p_mass[row], min_p_mass);
  for (int bin = threadIdx.x; bin < kWeightBins; bin += kThreads) {
    if (bins.count[bin] == 0) continue;
    atomicAdd(&k.bin_count[row * kWeightBins + bin], bins.count[bin]);
    atomicAdd(&k.bin_mass[row * kWeightBins + bin],
              static_cast<unsigned long long>(bins.high[bin]) << 32 | bins.low[bin]);
  }
}

}  // namespace

absl::Status LaunchWeightBins(const SampleKernelArgs& args, cudaStream_t stream) {
  const LogitsView& logits = args.sample.logits;
  const int64_t ids = logits.rows <= kFewRows ? kFewRowsIds : kManyRowsIds;
  const dim3 grid(static_cast<unsigned>(logits.rows),
                  static_cast<unsigned>((logits.vocab + ids - 1) / ids));
  return LaunchDependent("sample: weight bins launch", WeightBinsKernel,
                         {.grid = grid, .block = dim3(kThreads), .stream = stream}, args, ids);
}

}  // namespace tessera
