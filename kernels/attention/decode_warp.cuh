// What one warp of a decode kernel does: loads units of 16 tokens into its ring of shared memory,
// and multiplies the query rows with them.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/attention/decode_rotate.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"

namespace tessera {

// A warp's ring. Keys and values of a unit are waited for and replaced on their own, so that even
// with one stage (e = 128, 8 KiB) one of the two is always under way.
template <int kE, int kKiB>
struct DecodeRing {
  static constexpr int kBytes = kKiB * 1024;
  static constexpr int kTileBytes = ContextCut::kUnitTokens * kE * 2;  // of k, then of v
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kStages = kBytes / kStageBytes;
  static constexpr int kPending = 2 * kStages - 1;  // copies behind the one waited for
};

// Starts copying a tile of 16 tokens, of which the first `cached` count; the others are zeros in
// shared memory: what lies behind a context may be anything.
template <int kE>
__device__ __forceinline__ void CopyTile(uint32_t to, const void* cache, int run, int cached) {
  constexpr int kPieces = kE / 8;
  const char* from =
      static_cast<const char*>(cache) + int64_t{run} * (ContextCut::kUnitTokens * kE * 2);
#pragma unroll
  for (int i = 0; i < kE / 16; ++i) {
    const int piece = static_cast<int>(threadIdx.x) % kWarp + i * kWarp, row = piece / kPieces;
    CopyAsync16(to + SwizzledBytes<kE>(row, piece % kPieces), from + piece * 16, row < cached);
  }
}

// Cached tokens from the start of a chunk's unit on. The newest token is not among them: the kernel
// itself puts that in place.
__device__ __forceinline__ int CachedFrom(const ChunkCursor& at, int unit) {
  return at.tokens - (at.FirstUnit() + unit) * ContextCut::kUnitTokens - 1;
}

// For lane i, where the i-th of the warp's units from `unit` on lies (those of a warp are
// kDecodeWarps apart).
__device__ __forceinline__ int LookUpUnits(const DecodeParams& p, const ChunkCursor& at, int unit) {
  unit += static_cast<int>(threadIdx.x) % kWarp * kDecodeWarps;
  if (unit >= at.Units()) return 0;
  return KvRun(p.kv, p.seq_slot[at.sequence], at.head / p.parts,
               (at.FirstUnit() + unit) * ContextCut::kUnitTokens);
}

// Each pair of calls of LoadNextKeys() and LoadNextValues() starts the copies of the warp's next
// unit of one chunk, into the stages of its ring in turn, each committed as one group (an empty one
// at the end).
template <int kE, typename RingType>
class ChunkLoader {
 public:
  using Ring = RingType;
  __device__ __forceinline__ ChunkLoader(const DecodeParams& p, const ChunkCursor& at,
                                         uint32_t ring)
      : p_(p), at_(at), ring_(ring), unit_(threadIdx.x / kWarp) {}

  // Once, before the first load: fills the ring.
  __device__ __forceinline__ void Begin() {
    runs_ = LookUpUnits(p_, at_, unit_);
    for (int i = 0; i < Ring::kStages; ++i) {
      LoadNextKeys();
      LoadNextValues();
    }
  }

  __device__ __forceinline__ void LoadNextKeys() {
    if (unit_ < at_.Units()) {
      if (count_ > 0 && count_ % kWarp == 0) runs_ = LookUpUnits(p_, at_, unit_);
      run_ = __shfl_sync(~0u, runs_, count_ % kWarp);
      CopyTile<kE>(ring_ + stage_ * Ring::kStageBytes, p_.kv.k, run_, CachedFrom(at_, unit_));
    }
    CommitCopies();
  }

  __device__ __forceinline__ void LoadNextValues() {
    if (unit_ < at_.Units())
      CopyTile<kE>(ring_ + stage_ * Ring::kStageBytes + Ring::kTileBytes, p_.kv.v, run_,
                   CachedFrom(at_, unit_));
    CommitCopies();
    unit_ += kDecodeWarps;
    ++count_;
    stage_ = stage_ + 1 == Ring::kStages ? 0 : stage_ + 1;
  }

 private:
  const DecodeParams& p_;
  const ChunkCursor& at_;
  const uint32_t ring_;
  int unit_, count_ = 0, stage_ = 0, runs_ = 0, run_ = 0;
};

// The same over all chunks of a block's range: it walks ahead of the arithmetic.
template <int kE, typename RingType>
class RangeLoader {
 public:
  using Ring = RingType;
  __device__ __forceinline__ RangeLoader(const DecodeParams& p, const BlockRange& range,
                                         uint32_t ring)
      : p_(p), range_(range), ring_(ring), at_(range.first), ahead_(range.first) {}

  // Once, before the first load: fills the ring.
  __device__ __forceinline__ void Begin() {
    runs_ = LookUp(at_, 0);
    StepAhead();
    for (int i = 0; i < Ring::kStages; ++i) {
      LoadNextKeys();
      LoadNextValues();
    }
  }

  __device__ __forceinline__ void LoadNextKeys() {
    const int warp = threadIdx.x / kWarp;
    while (live_ && unit_ + warp >= at_.Units()) {
      at_ = ahead_;
      runs_ = ahead_runs_;
      unit_ = 0;
      live_ = range_.Holds(p_, at_);
      StepAhead();
    }
    if (live_) {
      const int step = unit_ / kDecodeWarps;
      if (step > 0 && step % kWarp == 0) runs_ = LookUp(at_, unit_);
      run_ = __shfl_sync(~0u, runs_, step % kWarp);
      cached_ = CachedFrom(at_, unit_ + warp);
      unit_ += kDecodeWarps;
      CopyTile<kE>(ring_ + stage_ * Ring::kStageBytes, p_.kv.k, run_, cached_);
    }
    CommitCopies();
  }

  __device__ __forceinline__ void LoadNextValues() {
    if (live_)
      CopyTile<kE>(ring_ + stage_ * Ring::kStageBytes + Ring::kTileBytes, p_.kv.v, run_, cached_);
    CommitCopies();
    stage_ = stage_ + 1 == Ring::kStages ? 0 : stage_ + 1;
  }

 private:
  // Looked up a chunk ahead, since the block table may come from device memory.
  __device__ __forceinline__ int LookUp(const ChunkCursor& at, int unit) const {
    if (!range_.Holds(p_, at)) return 0;
    return LookUpUnits(p_, at, unit + static_cast<int>(threadIdx.x) / kWarp);
  }

  __device__ __forceinline__ void StepAhead() {
    if (ahead_.sequence < p_.sequences) ahead_.Advance(p_);
    ahead_runs_ = LookUp(ahead_, 0);
  }

  const DecodeParams& p_;
  const BlockRange& range_;
  const uint32_t ring_;
  ChunkCursor at_, ahead_;
  int runs_ = 0, ahead_runs_ = 0;
  int unit_ = 0;  // of warp 0 in the chunk; this warp's is `warp` later
  int run_ = 0, cached_ = 0;
  int stage_ = 0;
  bool live_ = true;
};

// Floats from a row of a warp's sums to the next: what a warp writes at once falls into different
// banks.
template <int kE>
constexpr int kSumStride = kE + 4;

// Softmax state of up to 8 * kTiles query rows over the units that a warp has seen. The rows are
// the columns of the products (k q^T, then v^T p^T), since tiles of 16 rows would be half empty for
// the usual groups. This lane's rows of a tile are c = lane % 4 * 2 and c + 1; `l` is its part of
// their denominators.
template <typename T, int kE, int kTiles>
struct WarpRows {
  static constexpr int kRows = 8 * kTiles;

  QueryFragments<kE, kTiles> query;
  float o[kTiles][kE / 16][4];  // columns lane / 4 and lane / 4 + 8 of 16, of rows c and c + 1
  float m[kTiles][2], l[kTiles][2];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kE / 16; ++i)
        o[tile][i][0] = o[tile][i][1] = o[tile][i][2] = o[tile][i][3] = 0.f;
      m[tile][0] = m[tile][1] = -std::numeric_limits<float>::infinity();
      l[tile][0] = l[tile][1] = 0.f;
    }
  }

  // s = the rows' products with the 16 keys: of tokens lane / 4 + j / 2 * 8 and rows c + j % 2.
  __device__ __forceinline__ void Scores(uint32_t keys, float (&s)[kTiles][4]) const {
    const int lane = threadIdx.x % kWarp;
    float odd[kTiles][4];  // half of the products in a chain of their own, for latency
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int j = 0; j < 4; ++j) s[tile][j] = odd[tile][j] = 0.f;
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) {
      uint32_t k[4];
      LoadMatrices(keys + SwizzledBytes<kE>(lane % 16, i * 2 + lane / 16), k);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        MultiplyAdd<T>(i % 2 == 0 ? s[tile] : odd[tile], k, query.q[tile][i][0],
                       query.q[tile][i][1]);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int j = 0; j < 4; ++j) s[tile][j] += odd[tile][j];
  }

  // Takes the scores of 16 tokens into the state, of which the first `left` count (all, if more);
  // they become the exponentials.
  __device__ __forceinline__ void Exponentials(int left, float scale_log2, float (&s)[kTiles][4]) {
    const int token = threadIdx.x % kWarp / 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        s[tile][j] = token + j / 2 * 8 < left ? s[tile][j] * scale_log2
                                              : -std::numeric_limits<float>::infinity();
    Rescale(s);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[tile][j] = Exp2(s[tile][j] - m[tile][j % 2]);
        l[tile][j % 2] += s[tile][j];
      }
  }

  __device__ __forceinline__ void AddValues(uint32_t values, const float (&s)[kTiles][4]) {
    const int lane = threadIdx.x % kWarp, row = lane % 8 + lane / 16 * 8;
    uint32_t p[kTiles][2];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      p[tile][0] = TransposeMatrix(PackHalves<T>(s[tile][0], s[tile][1]));
      p[tile][1] = TransposeMatrix(PackHalves<T>(s[tile][2], s[tile][3]));
    }
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) {
      uint32_t v[4];
      LoadMatricesTransposed(values + SwizzledBytes<kE>(row, i * 2 + (lane / 8 & 1)), v);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        MultiplyAdd<T>(o[tile][i], v, p[tile][0], p[tile][1]);
    }
  }

  // Leaves the sums in `sums` and each row's maximum and denominator in `states`.
  __device__ __forceinline__ void Publish(int rows, float* sums, float2* states) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = tile * 8 + lane % 4 * 2 + i;
        float sum = l[tile][i];
        for (int step = 4; step < kWarp; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (row >= rows) continue;
        if (lane < 4) states[row] = {m[tile][i], sum};
        float* const to = sums + row * kSumStride<kE> + lane / 4;
#pragma unroll
        for (int j = 0; j < kE / 16; ++j) {
          to[j * 16] = o[tile][j][i];
          to[j * 16 + 8] = o[tile][j][i + 2];
        }
      }
  }

 private:
  // Brings the state to a maximum that covers `s` too.
  __device__ __forceinline__ void Rescale(const float (&s)[kTiles][4]) {
    float max[kTiles][2];
    bool grows = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        max[tile][i] = fmaxf(s[tile][i], s[tile][i + 2]);
#pragma unroll
        for (int step = 4; step < kWarp; step *= 2)
          max[tile][i] = fmaxf(max[tile][i], __shfl_xor_sync(~0u, max[tile][i], step));
        grows |= max[tile][i] > m[tile][i];
      }
    if (!__any_sync(~0u, grows)) return;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float to = fmaxf(max[tile][i], m[tile][i]);
        const float factor = Exp2(m[tile][i] - to);
        m[tile][i] = to;
        l[tile][i] *= factor;
#pragma unroll
        for (int j = 0; j < kE / 16; ++j) o[tile][j][i] *= factor, o[tile][j][i + 2] *= factor;
      }
  }
};

}  // namespace tessera
