// What the two decode kernels share of a block's work: a chunk by its warps, and the sum of what
// they found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/decode_warp.cuh"
#include "kernels/device/mma.cuh"

namespace tessera {

// A warp with the query rows of a (sequence, head).
template <typename T, int kE, int kTiles, typename Loader>
class DecodeWarp {
  using Ring = typename Loader::Ring;
  using Table = RotationTable<kE, kTiles>;

 public:
  template <typename Work>
  __device__ __forceinline__ DecodeWarp(const DecodeParams& p, const Work& work, Table& table,
                                        char* ring)
      : p_(p), table_(table), ring_(ring), loader_(p, work, SharedAddress(ring)) {}

  // Starts copying the first units.
  __device__ __forceinline__ void BeginLoads() { loader_.Begin(); }

  // Fetches the raw heads; the kernels ahead have finished.
  __device__ __forceinline__ void Fetch(const ChunkCursor& at, const DecodeRun& run) {
    kv_head_ = run.kv_head;
    raw_.Load(QkvRow<T, kE>(p_, at.sequence) + int64_t{run.first_head} * kE, run.rows);
    newest_.Load(p_, at, run.kv_head);
  }
  // After a barrier behind the filling of half `which` of the table.
  __device__ __forceinline__ void Rotate(int which) {
    which_ = which;
    raw_.Rotate(p_, table_, which);
  }
  // After a barrier behind Rotate().
  __device__ __forceinline__ void LoadQuery() { rows_.query.Load(table_.query); }

  // From nothing, through the warp's units of the chunk.
  __device__ __forceinline__ void Attend(const ChunkCursor& at) {
    const int units = at.Units(), first_unit = at.FirstUnit();
    rows_.Clear();
    for (int unit = threadIdx.x / kWarp; unit < units; unit += kDecodeWarps) {
      char* const keys = ring_ + stage_ * Ring::kStageBytes;
      char* const values = keys + Ring::kTileBytes;
      stage_ = stage_ + 1 == Ring::kStages ? 0 : stage_ + 1;
      const int left = at.tokens - (first_unit + unit) * ContextCut::kUnitTokens;
      const bool holds_newest = left <= ContextCut::kUnitTokens;
      float s[kTiles][4];
      WaitForCopies<Ring::kPending>();
      __syncwarp();
      if (holds_newest) {
        newest_.PlaceKey(p_, table_, which_, keys, left - 1);
        __syncwarp();
      }
      rows_.Scores(SharedAddress(keys), s);
      __syncwarp();
      loader_.LoadNextKeys();
      rows_.Exponentials(left, p_.scale_log2, s);
      WaitForCopies<Ring::kPending>();
      __syncwarp();
      if (holds_newest) {
        newest_.PlaceValue(values, left - 1);
        placed_ = true;
        __syncwarp();
      }
      rows_.AddValues(SharedAddress(values), s);
      __syncwarp();
      loader_.LoadNextValues();
    }
  }

  // After Attend(): the newest token, if it was in one of the warp's units, goes to the cache.
  __device__ __forceinline__ void WriteNewest() {
    if (placed_) newest_.WriteToCache(p_, kv_head_);
    placed_ = false;
  }

  __device__ __forceinline__ void Publish(int rows, float* sums, float2* states) const {
    rows_.Publish(rows, sums, states);
  }

 private:
  const DecodeParams& p_;
  Table& table_;
  char* const ring_;
  int stage_ = 0, kv_head_ = 0, which_ = 0;
  bool placed_ = false;
  Loader loader_;
  WarpRows<T, kE, kTiles> rows_;
  RawQuery<T, kE, kTiles> raw_;
  NewToken<T, kE> newest_;
};

// A thread's share of a [rows, kE] sum: kVecs pieces of four elements, the first being number
// threadIdx.x, the others kDecodeThreads further each.
template <int kE, int kTiles>
struct RunState {
  static constexpr int kVecs = std::max(1, 8 * kTiles * kE / 4 / kDecodeThreads);
  float4 sum[kVecs];
  float2 state[kVecs];  // of the piece's row: its maximum (base 2) and denominator
};

// Calls visit(i, row, column / 4) for each piece i of the thread.
template <int kE, int kTiles, typename Visit>
__device__ __forceinline__ void ForPieces(int rows, const Visit& visit) {
#pragma unroll
  for (int i = 0; i < RunState<kE, kTiles>::kVecs; ++i) {
    const int piece = static_cast<int>(threadIdx.x) + i * kDecodeThreads, row = piece / (kE / 4);
    if (row < rows) visit(i, row, piece % (kE / 4));
  }
}

template <int kRows>
using WarpStates = float2[kDecodeWarps][kRows];

// The chunk's sum over its first `warps` warps, in their order. Warp w's sums are at
// sums + w * stride.
template <int kE, int kTiles>
__device__ __forceinline__ RunState<kE, kTiles> SumWarps(const float* sums, int stride, int warps,
                                                         int rows,
                                                         const WarpStates<8 * kTiles>& states) {
  RunState<kE, kTiles> out;
  ForPieces<kE, kTiles>(rows, [&](int i, int row, int column) {
    const int at = row * kSumStride<kE> + column * 4;
    float2 state[kDecodeWarps];
    float4 part[kDecodeWarps];
    float max = std::numeric_limits<float>::lowest();
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {  // all reads under way at once
      const bool counts = w < warps;
      state[w] = counts ? states[w][row] : float2{std::numeric_limits<float>::lowest(), 0.f};
      part[w] = counts ? *reinterpret_cast<const float4*>(sums + w * stride + at) : float4{};
      max = fmaxf(max, state[w].x);
    }
    float4 sum = {};
    float l = 0.f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float factor = Exp2(state[w].x - max);
      sum = {fmaf(part[w].x, factor, sum.x), fmaf(part[w].y, factor, sum.y),
             fmaf(part[w].z, factor, sum.z), fmaf(part[w].w, factor, sum.w)};
      l = fmaf(state[w].y, factor, l);
    }
    out.sum[i] = sum;
    out.state[i] = {max, l};
  });
  return out;
}

// A piece of row `row` of a run, column / 4 = `column`.
template <typename T, int kE>
__device__ __forceinline__ void SavePiece(const DecodeParams& p, const DecodeRun& of, int row,
                                          int column, const float4& sum, float denominator) {
  const float inverse = __fdividef(1.f, denominator);
  p.out.Store(of.sequence, (of.first_head + row) * kE + column * 4,
              uint2{PackHalves<T>(sum.x * inverse, sum.y * inverse),
                    PackHalves<T>(sum.z * inverse, sum.w * inverse)});
}

template <typename T, int kE, int kTiles>
__device__ __forceinline__ void SaveOutput(const DecodeParams& p, const RunState<kE, kTiles>& state,
                                           const DecodeRun& of) {
  ForPieces<kE, kTiles>(of.rows, [&](int i, int row, int column) {
    SavePiece<T, kE>(p, of, row, column, state.sum[i], state.state[i].y);
  });
}

// Rows of sequences without context, and rows of no sequence.
__device__ __forceinline__ void SaveZeros(const DecodeParams& p) {
  for (int i = blockIdx.x; i < p.sequences + p.zero_rows; i += gridDim.x) {
    if (i < p.sequences && VisibleTokens(p, i) > 0) continue;
    p.out.StoreZeros(i, static_cast<int>(threadIdx.x), kDecodeThreads);
  }
}

}  // namespace tessera
