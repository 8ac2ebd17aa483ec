#include <algorithm>
#include <cstdint>
#include <numbers>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/decode_combine.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/decode_warp.cuh"
#include "kernels/attention/decode_warp_rows8.cuh"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"

namespace tessera {
namespace {

constexpr int kLargeRingBytes = 24 * 1024, kSmallRingBytes = 16 * 1024;
constexpr int64_t kStaticBytes = 4 * 1024;  // at most, of shared memory beside the rings

// What the warps of a block leave for each other at the end of a chunk, beside their sums.
struct WarpSums {
  float2 state[kDecodeWarps][DecodeLayout::kMaxRows];  // maximum and denominator by row
  int stage[kDecodeWarps];  // offset in the rings of the stage that holds the warp's sums
};

// A thread's share of a [rows, kE] sum: kVecs pieces of four elements.
template <int kE>
struct RunState {
  static constexpr int kPieces = static_cast<int>(DecodeLayout::kMaxRows) * kE / 4;
  static constexpr int kVecs = std::max(1, kPieces / kDecodeThreads);
  float4 sum[kVecs];
  float2 state[kVecs];  // of the piece's row
};

// The query rows of a (sequence, head).
struct DecodeRun {
  int64_t first_row;  // of [t * h]
  int rows;
};
__device__ __forceinline__ DecodeRun RunAt(const DecodeParams& p, const ChunkCursor& at) {
  const int kv_head = at.head / p.parts, first = at.head % p.parts * p.rows;
  return {int64_t{at.sequence} * p.h + kv_head * p.group + first, min(p.rows, p.group - first)};
}

// The chunk's sum over its first `warps` warps, in their order.
template <int kE>
__device__ __forceinline__ void SumWarps(const char* rings, int warps, int rows,
                                         const WarpSums& from, RunState<kE>& out) {
#pragma unroll
  for (int i = 0; i < RunState<kE>::kVecs; ++i) {
    const int piece = threadIdx.x + i * kDecodeThreads, row = piece / (kE / 4);
    if (row >= rows) continue;
    const int at = SumAt<kE>(row, piece % (kE / 4) * 4);
    float max = from.state[0][row].x;
    for (int w = 1; w < warps; ++w) max = fmaxf(max, from.state[w][row].x);
    float4 sum = {};
    float l = 0.f;
    for (int w = 0; w < warps; ++w) {
      const float2 state = from.state[w][row];
      const float factor = Exp2(state.x - max);
      const float4 part = *reinterpret_cast<const float4*>(rings + from.stage[w] +
                                                           at * static_cast<int>(sizeof(float)));
      sum = {fmaf(part.x, factor, sum.x), fmaf(part.y, factor, sum.y), fmaf(part.z, factor, sum.z),
             fmaf(part.w, factor, sum.w)};
      l = fmaf(state.y, factor, l);
    }
    out.sum[i] = sum;
    out.state[i] = {max, l};
  }
}

// run = run followed by chunk.
template <int kE>
__device__ __forceinline__ void AddChunk(const RunState<kE>& chunk, RunState<kE>& run) {
#pragma unroll
  for (int i = 0; i < RunState<kE>::kVecs; ++i) {
    const FoldFactors f = FactorsOf(run.state[i].x, chunk.state[i].x);
    run.sum[i] = {Fold(run.sum[i].x, chunk.sum[i].x, f), Fold(run.sum[i].y, chunk.sum[i].y, f),
                  Fold(run.sum[i].z, chunk.sum[i].z, f), Fold(run.sum[i].w, chunk.sum[i].w, f)};
    run.state[i] = {f.max, Fold(run.state[i].y, chunk.state[i].y, f)};
  }
}

template <int kE>
__device__ __forceinline__ void SavePartial(const DecodeParams& p, const RunState<kE>& state,
                                            int rows, int64_t slot) {
  const int64_t at = slot * p.rows;
#pragma unroll
  for (int i = 0; i < RunState<kE>::kVecs; ++i) {
    const int piece = threadIdx.x + i * kDecodeThreads, row = piece / (kE / 4);
    if (row >= rows) continue;
    const int column = piece % (kE / 4);
    reinterpret_cast<float4*>(p.partials)[(at + row) * (kE / 4) + column] = state.sum[i];
    if (column == 0) p.states[at + row] = state.state[i];
  }
}

template <typename T, int kE>
__device__ __forceinline__ void SaveOutput(const DecodeParams& p, const RunState<kE>& state,
                                           int rows, int64_t first_row) {
#pragma unroll
  for (int i = 0; i < RunState<kE>::kVecs; ++i) {
    const int piece = threadIdx.x + i * kDecodeThreads, row = piece / (kE / 4);
    if (row >= rows) continue;
    const float4 x = state.sum[i];
    const float inverse = 1.f / state.state[i].y;
    auto* out = static_cast<uint2*>(p.out) + (first_row + row) * (kE / 4) + piece % (kE / 4);
    *out = {PackHalves<T>(x.x * inverse, x.y * inverse),
            PackHalves<T>(x.z * inverse, x.w * inverse)};
  }
}

// Rows of sequences without context, and rows of no sequence.
template <int kE>
__device__ __forceinline__ void SaveZeros(const DecodeParams& p) {
  const int pieces = p.h * kE / 8;
  for (int i = blockIdx.x; i < p.sequences + p.zero_rows; i += gridDim.x) {
    if (i < p.sequences && VisibleTokens(p, i) > 0) continue;
    for (int j = threadIdx.x; j < pieces; j += kDecodeThreads)
      static_cast<uint4*>(p.out)[int64_t{i} * pieces + j] = {};
  }
}

// The output of a run of chunks from a context's first on, or the run itself if more chunks follow.
template <typename T, int kE>
__device__ __forceinline__ void SaveRun(const DecodeParams& p, const RunState<kE>& run,
                                        const ChunkCursor& end, const DecodeRun& of) {
  const bool complete = end.chunk + 1 == end.cut.chunks;
  const int region =
      p.region_per_head ? end.sequence * p.heads + end.head : static_cast<int>(blockIdx.x);
  if (complete)
    SaveOutput<T, kE>(p, run, of.rows, of.first_row);
  else
    SavePartial<kE>(p, run, of.rows, p.Slot(region, 0));
  if (threadIdx.x == 0 && (!complete || p.region_per_head))
    p.records[region] = {complete ? -1 : end.sequence, end.head, end.chunk + 1, 0};
}

// Persistent blocks, each over an equal range of chunks (decode_schedule.cuh). In a chunk, warp w
// takes units w, w + 8, ... of 16 tokens, on its own: each warp loads its units into a ring of its
// own, ahead over chunk borders, and keeps its own softmax state. At the end of a chunk the warps'
// sums are added through the ring stages just read; chunks from a context's first on are added up
// in registers, others go to scratch for the combine kernel.
// Grid (multiprocessors), block kDecodeThreads, shared memory: the rings.
template <typename T, int kE, int kRingBytes, typename Warp>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeAttentionKernel(const __grid_constant__ DecodeParams p) {
  using Ring = DecodeRing<kE, kRingBytes>;
  extern __shared__ __align__(128) char rings[];
  __shared__ WarpSums sums;
  LetNextStart();
  const BlockRange range = FindBlockRange<kDecodeThreads>(p);
  const bool busy = range.Holds(p, range.first);
  const int warp_index = threadIdx.x / kWarp;
  UnitLoader<kE, kRingBytes> loader(p, range, SharedAddress(rings) + warp_index * kRingBytes);
  if (busy) loader.PrefetchFirst();
  WaitForPrevious();
  // Overwritten below, by the same thread, if the block leaves a context unfinished.
  if (!p.region_per_head && threadIdx.x == 0) p.records[blockIdx.x] = {-1, 0, 0, 0};
  if (!busy) {
    SaveZeros<kE>(p);
    return;
  }
  loader.Begin();
  for (int i = 0; i < Ring::kStages - 1; ++i) loader.LoadNext();
  Warp warp;
  DecodeRun of = RunAt(p, range.first);
  warp.LoadQuery(static_cast<const T*>(p.q) + of.first_row * kE, of.rows);
  SaveZeros<kE>(p);
  RunState<kE> run;
  bool whole = range.first.chunk == 0;  // the run began at its context's start
  int stage = 0;
  ChunkCursor at = range.first;
  while (true) {
    const int units = at.Units(), first_unit = at.FirstUnit();
    warp.Clear();
    int last_stage = 0;
    for (int unit = warp_index; unit < units; unit += kDecodeWarps) {
      WaitForCopies<Ring::kStages - 2>();
      __syncwarp();
      loader.LoadNext();
      last_stage = warp_index * kRingBytes + stage * Ring::kStageBytes;
      const int left = at.tokens - (first_unit + unit) * ContextCut::kUnitTokens;
      warp.Attend(SharedAddress(rings + last_stage), left, p.scale_log2);
      stage = stage + 1 == Ring::kStages ? 0 : stage + 1;
    }
    const ChunkCursor done = at;
    const DecodeRun done_of = of;
    at.Advance(p);
    const bool more = range.Holds(p, at);
    if (more && at.chunk == 0) {  // the next query comes while the warps' sums are added up
      of = RunAt(p, at);
      warp.LoadQuery(static_cast<const T*>(p.q) + of.first_row * kE, of.rows);
    }
    // The stage that the last unit was read from is not loaded again before the next unit.
    __syncwarp();
    const int warps = min(units, kDecodeWarps);
    if (warp_index < warps) {
      // Into the ring stage just read, for the other warps.
      if (threadIdx.x % kWarp == 0) sums.stage[warp_index] = last_stage;
      warp.Publish(done_of.rows, reinterpret_cast<float*>(rings + last_stage),
                   sums.state[warp_index]);
    }
    __syncthreads();
    RunState<kE> chunk;
    SumWarps<kE>(rings, warps, done_of.rows, sums, chunk);
    __syncthreads();
    const bool last = done.chunk + 1 == done.cut.chunks;
    if (!whole) {
      SavePartial<kE>(p, chunk, done_of.rows, p.Slot(range.RegionOf(p, done), done.chunk));
    } else {
      if (done.chunk == 0)
        run = chunk;
      else
        AddChunk<kE>(chunk, run);
      if (last || !more) SaveRun<T, kE>(p, run, done, done_of);
    }
    if (!more) break;
    if (last) whole = true;
  }
}

DecodeParams ParamsOf(const PagedAttentionArgs& a, const DecodeLayout& layout) {
  DecodeParams p{};
  p.kv = {a.k_cache,
          a.v_cache,
          a.block_table,
          static_cast<int32_t>(a.g),
          static_cast<int32_t>(a.block_size),
          static_cast<int32_t>(a.max_blocks),
          static_cast<int32_t>(a.blocks)};
  p.q = a.q;
  p.out = a.out;
  p.seq_slot = a.seq_slot;
  p.context = a.context;
  auto* workspace = static_cast<char*>(a.workspace);
  p.partials = reinterpret_cast<float*>(workspace);
  p.states = reinterpret_cast<float2*>(workspace + layout.partial_bytes);
  p.records =
      reinterpret_cast<RegionRecord*>(workspace + layout.partial_bytes + layout.state_bytes);
  p.sequences = static_cast<int32_t>(a.decode_sequences);
  p.zero_rows = static_cast<int32_t>(a.s == a.decode_sequences ? a.t - a.decode_sequences : 0);
  p.h = static_cast<int32_t>(a.h);
  p.group = static_cast<int32_t>(a.h / a.g);
  p.parts = static_cast<int32_t>(layout.parts);
  p.rows = static_cast<int32_t>(layout.rows);
  p.heads = static_cast<int32_t>(layout.heads);
  p.region_per_head = layout.region_per_head;
  p.cut = layout.cut;
  p.scale_log2 = a.scale * std::numbers::log2e_v<float>;
  return p;
}

template <typename T, int kE, int kRingBytes, typename Warp>
absl::Status LaunchSplit(const DecodeParams& p, const DecodeLayout& layout, const Stream& stream) {
  constexpr int kSharedBytes = kDecodeWarps * kRingBytes;
  const auto kernel = DecodeAttentionKernel<T, kE, kRingBytes, Warp>;
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "paged_attention decode shared memory");
  const LaunchShape shape{dim3(static_cast<unsigned>(layout.blocks)), dim3(kDecodeThreads),
                          kSharedBytes, stream.cuda};
  return LaunchDependent("paged_attention decode launch", kernel, shape, p);
}

template <typename T, int kE>
absl::Status Launch(const PagedAttentionArgs& a, const AttentionGpu& gpu, const Stream& stream) {
  const DecodeLayout layout = ChooseDecodeLayout(gpu.sm_count, a.decode_sequences, a.h, a.g, a.e);
  // Work is counted in 32 bits, as if every sequence filled its row of the block table.
  const int64_t most_tokens = std::min<int64_t>(a.max_blocks * a.block_size, INT32_MAX);
  const int64_t most_work = a.decode_sequences * layout.heads *
                            CutContext(static_cast<int32_t>(most_tokens), layout.cut).Cost();
  if (most_work + layout.blocks > int64_t{UINT32_MAX})
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: ", a.decode_sequences, " decode sequences of up to ",
                     most_tokens, " tokens are ", most_work, " units of work, 2^32 is too many"));
  const DecodeParams p = ParamsOf(a, layout);
  const bool large = gpu.block_shared_bytes >= kDecodeWarps * kLargeRingBytes + kStaticBytes;
  if (layout.rows <= WarpRows8<T, kE>::kRows)
    RETURN_IF_ERROR(
        (large ? LaunchSplit<T, kE, kLargeRingBytes, WarpRows8<T, kE>>
               : LaunchSplit<T, kE, kSmallRingBytes, WarpRows8<T, kE>>)(p, layout, stream));
  else
    RETURN_IF_ERROR(
        (large ? LaunchSplit<T, kE, kLargeRingBytes, WarpRows16<T, kE>>
               : LaunchSplit<T, kE, kSmallRingBytes, WarpRows16<T, kE>>)(p, layout, stream));
  // A context of one chunk is never split.
  if (a.max_context <= int64_t{layout.cut.min_units} * ContextCut::kUnitTokens)
    return absl::OkStatus();
  const LaunchShape shape{dim3(static_cast<unsigned>(layout.regions * layout.rows)), dim3(kE), 0,
                          stream.cuda};
  // The split of L1 that the decode kernel needs, so that its next launch may join on the same SM.
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(DecodeCombineKernel<T, kE>,
                                            cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared),
                       "paged_attention combine shared memory");
  return LaunchDependent("paged_attention combine launch", DecodeCombineKernel<T, kE>, shape, p);
}

}  // namespace

absl::Status LaunchDecodeAttention(const PagedAttentionArgs& a, const AttentionGpu& gpu,
                                   const Stream& stream) {
  return VisitHalf(a.dtype, "paged_attention", [&]<typename T>(TypeTag<T>) {
    if (a.e == 32) return Launch<T, 32>(a, gpu, stream);
    if (a.e == 64) return Launch<T, 64>(a, gpu, stream);
    return Launch<T, 128>(a, gpu, stream);
  });
}

}  // namespace tessera
