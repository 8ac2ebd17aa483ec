// Finds, with one block, the candidate of a row at which a running count or weight reaches a goal.
// The bins of WeightBins say in which bin that is; its candidates are listed and sorted in shared
// memory. Bins too full for that are searched by key, with a pass over the row for each bit.
#pragma once

#include <cmath>

#include <cuda_runtime.h>

#include "kernels/device/reduce.cuh"
#include "kernels/sampling/logits_row.cuh"
#include "kernels/sampling/sample_math.h"

namespace tessera {

constexpr int kCutThreads = 1024;
constexpr uint32_t kListCapacity = 8192;  // 150k normal logits of deviation 0.2 put this into a bin
constexpr uint32_t kPrefixCapacity = 2048;  // up to here the list holds all bins before it too

// Shared memory of a block.
struct CutShared {
  uint64_t mass[kWeightBins];  // of the bin and all before it
  uint32_t count[kWeightBins];
  uint64_t list[kListCapacity];     // packed candidates of the listed bins, greatest first
  uint64_t running[kListCapacity];  // weight of the row's candidates up to each of them
  uint64_t scratch[kCutThreads / kWarp];
  uint32_t listed;            // above kListCapacity: too many, there is no list
  int list_first, list_last;  // bins, inclusive; -1: none yet
  int found;                  // index of a bin or of a listed candidate
};

// A row and its best penalised logit.
struct CutRow {
  LogitsView view;
  int64_t row;
  PenaltyRow penalties;
  float best;
};

// Sum of the values of this thread and all before it in the block.
__device__ inline uint64_t ScanBlock(CutShared& s, uint64_t value) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t before = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += before;
  }
  if (lane == kWarp - 1) s.scratch[warp] = value;
  __syncthreads();
  const uint64_t warps_before = WarpReduce<SumOp>(lane < warp ? s.scratch[lane] : 0);
  __syncthreads();
  return warps_before + value;
}

// Running sums over the bins in place: thread i takes bins 2i and 2i + 1.
__device__ inline void SumBins(CutShared& s) {
  static_assert(kWeightBins % 2 == 0 && kWeightBins <= 2 * kCutThreads);
  const int bin = 2 * static_cast<int>(threadIdx.x);
  const bool has = bin < kWeightBins;
  const uint64_t mass1 = has ? s.mass[bin + 1] : 0;
  const uint32_t count1 = has ? s.count[bin + 1] : 0;
  const uint64_t mass = ScanBlock(s, has ? s.mass[bin] + mass1 : 0);
  const auto count = static_cast<uint32_t>(ScanBlock(s, has ? s.count[bin] + count1 : 0));
  if (has) {
    s.mass[bin] = mass - mass1;
    s.mass[bin + 1] = mass;
    s.count[bin] = count - count1;
    s.count[bin + 1] = count;
  }
  __syncthreads();
}

// The exact check of one logit near the listed bins: its weight, or 0 when it is outside them. Out
// of line, as it is rarely reached.
inline __device__ __noinline__ uint64_t WeightInBins(float logit, float best, float temperature,
                                                     int first, int last) {
  const uint64_t distance = DistanceOf(logit, best, temperature);
  if (distance == kTooFar || BinOf(distance) < first || BinOf(distance) > last) return 0;
  return WeightOf(distance);
}

// Calls body(packed candidate, weight) for the candidates of bins list_first to list_last in the
// row, split over the block.
template <typename Body>
__device__ void ForEachInRow(const CutShared& s, const CutRow& r, Body body) {
  constexpr float kLn2 = 0.69314718f;
  constexpr int kAhead = 8;  // loads under way a thread
  const float temperature = r.penalties.params.temperature;
  const int first_bin = s.list_first, last_bin = s.list_last;
  // Most logits are far from the bins: a rough window, wider than any rounding, spares them the
  // exact distance. Where it is not finite nothing is spared. NaN logits have no weight.
  const float width = temperature * kLn2 / kBinsPerOctave;
  const float far = width * static_cast<float>(last_bin + 1);
  const float slack = (fabsf(r.best) + far) * 1e-5f + 1e-30f;
  float low = r.best - far - slack;
  float high = r.best - width * static_cast<float>(first_bin) + slack;
  if (!(fabsf(low) < INFINITY)) low = -INFINITY;
  if (!(fabsf(high) < INFINITY)) high = INFINITY;
  const auto visit = [&](float raw, int64_t id) {
    float logit = raw;
    if (r.penalties.seen != nullptr) logit = Penalised(r.penalties, CleanLogit(raw), id);
    if (!(logit >= low && logit <= high) || id >= r.view.vocab) return;
    logit = CleanLogit(logit);
    const uint64_t weight = WeightInBins(logit, r.best, temperature, first_bin, last_bin);
    if (weight != 0) body(PackCandidate(logit, id), weight);
  };
  constexpr int64_t kStep = int64_t{kCutThreads} * kGroup;
#pragma unroll 1
  for (int64_t first = threadIdx.x * kGroup; first < r.view.vocab; first += kAhead * kStep) {
    float4 group[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      group[j] = {kNoLogit, kNoLogit, kNoLogit, kNoLogit};
      if (first + j * kStep < r.view.vocab) group[j] = LoadGroup(r.view, r.row, first + j * kStep);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t id = first + j * kStep;
      if (r.penalties.seen == nullptr &&
          (fmaxf(fmaxf(group[j].x, group[j].y), fmaxf(group[j].z, group[j].w)) < low ||
           fminf(fminf(group[j].x, group[j].y), fminf(group[j].z, group[j].w)) > high))
        continue;  // one test for four ids; fmaxf and fminf pass over NaN
      visit(group[j].x, id);
      visit(group[j].y, id + 1);
      visit(group[j].z, id + 2);
      visit(group[j].w, id + 3);
    }
  }
}

__device__ __forceinline__ uint32_t CountBefore(const CutShared& s, int bin) {
  return bin == 0 ? 0 : s.count[bin - 1];
}
__device__ __forceinline__ uint64_t MassBefore(const CutShared& s, int bin) {
  return bin == 0 ? 0 : s.mass[bin - 1];
}

// Sorts the list, greatest first: bitonic, over the next power of two, the rest filled with 0.
__device__ inline void SortList(CutShared& s) {
  uint32_t size = 2;
  while (size < s.listed) size *= 2;
  for (uint32_t i = s.listed + threadIdx.x; i < size; i += kCutThreads) s.list[i] = 0;
  __syncthreads();
  for (uint32_t run = 2; run <= size; run *= 2) {
    for (uint32_t stride = run / 2; stride > 0; stride /= 2) {
      for (uint32_t pair = threadIdx.x; pair < size / 2; pair += kCutThreads) {
        const uint32_t i = 2 * pair - (pair & (stride - 1)), j = i + stride;
        const uint64_t a = s.list[i], b = s.list[j];
        const bool descending = (i & run) == 0;
        if ((a < b) == descending) {
          s.list[i] = b;
          s.list[j] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Running sums of the sorted list: thread i takes the `each` candidates from i * each on.
__device__ inline void SumList(CutShared& s, const CutRow& r) {
  const uint32_t each = (s.listed + kCutThreads - 1) / kCutThreads;
  const uint32_t begin = min(threadIdx.x * each, s.listed), end = min(begin + each, s.listed);
  uint64_t sum = 0;
  for (uint32_t i = begin; i < end; ++i) {
    const float logit = LogitOf(KeyOf(s.list[i]));
    sum += WeightOf(DistanceOf(logit, r.best, r.penalties.params.temperature));
    s.running[i] = sum;
  }
  const uint64_t before = MassBefore(s, s.list_first) + ScanBlock(s, sum) - sum;
  for (uint32_t i = begin; i < end; ++i) s.running[i] += before;
  __syncthreads();
}

// Makes the list hold `bin`: with all bins before it, where what is drawn later usually lies, when
// those are few; else alone.
inline __device__ __noinline__ void ListBin(CutShared& s, const CutRow& r, int bin) {
  if (s.list_first >= 0 && s.list_first <= bin && bin <= s.list_last) return;
  __syncthreads();  // the list is read no more
  if (threadIdx.x == 0) {
    s.list_first = s.count[bin] <= kPrefixCapacity ? 0 : bin;
    s.list_last = bin;
    const uint32_t needed = s.count[bin] - CountBefore(s, s.list_first);
    s.listed = needed <= kListCapacity ? 0 : needed;
  }
  __syncthreads();
  const bool fits = s.listed <= kListCapacity;
  __syncthreads();  // before the first candidate changes `listed`
  if (!fits) return;
  ForEachInRow(s, r,
               [&](uint64_t candidate, uint64_t) { s.list[atomicAdd(&s.listed, 1u)] = candidate; });
  __syncthreads();
  SortList(s);
  SumList(s, r);
}

// The one index in [0, count) for which `is` holds; every thread gets it.
template <typename Is>
__device__ int FindIndex(CutShared& s, int count, Is is) {
  for (int i = threadIdx.x; i < count; i += kCutThreads)
    if (is(i)) s.found = i;
  __syncthreads();
  const int found = s.found;
  __syncthreads();
  return found;
}

// The greatest key at which the count (or weight) of the listed bin's candidates with that key or a
// greater one reaches `goal`. For bins that are too full: reads the row once for each bit.
inline __device__ __noinline__ uint32_t SearchKey(CutShared& s, const CutRow& r, bool by_count,
                                                  uint64_t goal) {
  uint32_t low = 1, high = ~0u;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2 + 1;
    uint64_t sum = 0;
    ForEachInRow(s, r, [&](uint64_t candidate, uint64_t weight) {
      if (KeyOf(candidate) >= middle) sum += by_count ? 1 : weight;
    });
    if (BlockReduce<SumOp, kCutThreads>(sum, s.scratch) >= goal) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Weight of the listed bin's candidates whose key is above `key`, or equal to it, from the row.
struct KeyMass {
  uint64_t above, tied;
};
inline __device__ __noinline__ KeyMass MassAround(CutShared& s, const CutRow& r, uint32_t key) {
  uint64_t above = 0, tied = 0;
  ForEachInRow(s, r, [&](uint64_t candidate, uint64_t weight) {
    if (KeyOf(candidate) > key) above += weight;
    if (KeyOf(candidate) == key) tied += weight;
  });
  above = BlockReduce<SumOp, kCutThreads>(above, s.scratch);
  return {above, BlockReduce<SumOp, kCutThreads>(tied, s.scratch)};
}

// The id of the tied candidate number `index`, from 0, lower ids first, from the row.
inline __device__ __noinline__ int32_t TiedId(CutShared& s, const CutRow& r, uint32_t key,
                                              uint64_t index) {
  int64_t low = 0, high = r.view.vocab - 1;  // the id wanted lies in [low, high]
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    uint64_t count = 0;
    ForEachInRow(s, r, [&](uint64_t candidate, uint64_t) {
      if (KeyOf(candidate) == key && IdOf(candidate) <= middle) ++count;
    });
    if (BlockReduce<SumOp, kCutThreads>(count, s.scratch) > index) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return static_cast<int32_t>(low);
}

// Weight of the row's first `k` candidates and of all that equal the last of them; k is at most
// their number. SumBins() has run.
__device__ inline uint64_t MassOfTop(CutShared& s, const CutRow& r, uint32_t k) {
  const int bin =
      FindIndex(s, kWeightBins, [&](int i) { return s.count[i] >= k && CountBefore(s, i) < k; });
  ListBin(s, r, bin);
  const uint32_t in_list = k - CountBefore(s, s.list_first);
  if (s.listed > kListCapacity) {
    const KeyMass mass = MassAround(s, r, SearchKey(s, r, true, in_list));
    return MassBefore(s, bin) + mass.above + mass.tied;
  }
  const uint32_t key = KeyOf(s.list[in_list - 1]);
  const auto listed = static_cast<int>(s.listed);
  return s.running[FindIndex(s, listed, [&](int i) {
    return KeyOf(s.list[i]) == key && (i + 1 == listed || KeyOf(s.list[i + 1]) != key);
  })];
}

// The first candidate at which the running sum of weights reaches `goal`, from 1 to the row's.
struct Place {
  int32_t id;
  uint64_t sum;  // with the candidate itself
};
__device__ inline Place Reach(CutShared& s, const CutRow& r, uint64_t goal) {
  const int bin = FindIndex(s, kWeightBins,
                            [&](int i) { return s.mass[i] >= goal && MassBefore(s, i) < goal; });
  ListBin(s, r, bin);
  if (s.listed > kListCapacity) {
    const uint64_t in_bin = goal - MassBefore(s, bin);
    const uint32_t key = SearchKey(s, r, false, in_bin);
    const KeyMass mass = MassAround(s, r, key);
    const uint64_t weight =
        WeightOf(DistanceOf(LogitOf(key), r.best, r.penalties.params.temperature));
    const uint64_t index = (in_bin - mass.above - 1) / weight;
    return {TiedId(s, r, key, index), MassBefore(s, bin) + mass.above + (index + 1) * weight};
  }
  const int at = FindIndex(s, static_cast<int>(s.listed), [&](int i) {
    return s.running[i] >= goal && (i == 0 || s.running[i - 1] < goal);
  });
  return {IdOf(s.list[at]), s.running[at]};
}

}  // namespace tessera
