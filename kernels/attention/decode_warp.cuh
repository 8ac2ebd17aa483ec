// What one warp of the decode kernel does: loads units of 16 tokens into its ring of shared memory,
// and multiplies the query rows with them.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"

namespace tessera {

// With 8 warps and rings of 24 KiB (e = 128), a multiprocessor has 128 KiB under way while it
// computes; 4.5 TB/s over 132 of them at 1 us of latency needs 34 KiB.
constexpr int kDecodeWarps = 8;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

// kRingBytes: of one warp, 24 KiB where a block may have 192 KiB of shared memory, else 16.
template <int kE, int kRingBytes>
struct DecodeRing {
  static constexpr int kTileBytes = ContextCut::kUnitTokens * kE * 2;  // of k, then of v
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
};

// Walks the chunks of a block's range ahead of the arithmetic. Each call of LoadNext() starts the
// copies of the warp's next unit, into the stages of its ring in turn, and commits them as one
// group (an empty one at the end of the range).
template <int kE, int kRingBytes>
class UnitLoader {
  using Ring = DecodeRing<kE, kRingBytes>;

 public:
  __device__ __forceinline__ UnitLoader(const DecodeParams& p, const BlockRange& range,
                                        uint32_t ring)
      : p_(p), range_(range), ring_(ring), at_(range.first), ahead_(range.first) {}

  // Brings what the first calls of LoadNext() will most likely copy into L2. May run before the
  // kernels ahead have finished: should one of them still change the block table, this fetches
  // something of no use.
  __device__ __forceinline__ void PrefetchFirst() const {
    constexpr int kLineBytes = 128;
    const int runs = LookUp(at_, 0), lane = threadIdx.x % kWarp;
    const int units =
        (at_.Units() - static_cast<int>(threadIdx.x) / kWarp + kDecodeWarps - 1) / kDecodeWarps;
    for (int i = 0; i < min(units, Ring::kStages - 1); ++i) {
      const int64_t from = int64_t{__shfl_sync(~0u, runs, i)} * Ring::kTileBytes;
      for (int at = lane * kLineBytes; at < Ring::kTileBytes; at += kWarp * kLineBytes) {
        PrefetchToL2(static_cast<const char*>(p_.kv.k) + from + at);
        PrefetchToL2(static_cast<const char*>(p_.kv.v) + from + at);
      }
    }
  }

  // Once, before the first LoadNext().
  __device__ __forceinline__ void Begin() {
    runs_ = LookUp(at_, 0);
    StepAhead();
  }

  __device__ __forceinline__ void LoadNext() {
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
      const int run = __shfl_sync(~0u, runs_, step % kWarp);
      Copy(run, at_.tokens - (at_.FirstUnit() + unit_ + warp) * ContextCut::kUnitTokens);
      unit_ += kDecodeWarps;
    }
    CommitCopies();
    stage_ = stage_ + 1 == Ring::kStages ? 0 : stage_ + 1;
  }

 private:
  // Lane i: where the i-th of the warp's units from `unit` on lies. Looked up a chunk ahead, since
  // the block table may come from device memory.
  __device__ __forceinline__ int LookUp(const ChunkCursor& at, int unit) const {
    unit += (threadIdx.x % kWarp) * kDecodeWarps + threadIdx.x / kWarp;
    if (!range_.Holds(p_, at) || unit >= at.Units()) return 0;
    return KvRun(p_.kv, p_.seq_slot[at.sequence], at.head / p_.parts,
                 (at.FirstUnit() + unit) * ContextCut::kUnitTokens);
  }

  __device__ __forceinline__ void StepAhead() {
    if (ahead_.sequence < p_.sequences) ahead_.Advance(p_);
    ahead_runs_ = LookUp(ahead_, 0);
  }

  // Tokens from `left` on are zeros in shared memory: what lies behind a context may be anything.
  __device__ __forceinline__ void Copy(int run, int left) const {
    constexpr int kPieces = kE / 8;
    const int lane = threadIdx.x % kWarp;
    const uint32_t to = ring_ + stage_ * Ring::kStageBytes;
    const int64_t from = int64_t{run} * Ring::kTileBytes;
    const char* k = static_cast<const char*>(p_.kv.k) + from;
    const char* v = static_cast<const char*>(p_.kv.v) + from;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < kE / 16; ++i) {
        const int piece = lane + i * kWarp, row = piece / kPieces;
        CopyAsync16(to + half * Ring::kTileBytes + SwizzledBytes<kE>(row, piece % kPieces),
                    (half == 0 ? k : v) + piece * 16, row < left);
      }
  }

  const DecodeParams& p_;
  const BlockRange& range_;
  const uint32_t ring_;
  ChunkCursor at_, ahead_;
  int runs_ = 0, ahead_runs_ = 0;
  int unit_ = 0;  // of warp 0 in the chunk; this warp's is `warp` later
  int stage_ = 0;
  bool live_ = true;
};

// Where a warp's sum of a query row and column is published, in floats: columns are turned so that
// rows fall into different banks.
template <int kE>
__device__ __forceinline__ int SumAt(int row, int column) {
  return row * kE + (column ^ ((row & 3) * 8));
}

// Softmax state of up to 16 query rows over the units that a warp has seen: fragments as in
// mma.cuh, rows lane / 4 and lane / 4 + 8. `l` is this lane's part of the row's denominator.
template <typename T, int kE>
struct WarpRows16 {
  static constexpr int kTileBytes = ContextCut::kUnitTokens * kE * 2;

  static constexpr int kRows = 16;
  uint32_t q[kE / 16][4];
  float o[kE / 8][4];
  float m[2], l[2];

  // Rows from `rows` on are zeros.
  __device__ __forceinline__ void LoadQuery(const T* rows_of_q, int rows) {
    const int lane = threadIdx.x % kWarp, row = lane / 4;
    const auto* words = reinterpret_cast<const uint32_t*>(rows_of_q);
#pragma unroll
    for (int i = 0; i < kE / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int r = row + (j & 1) * 8, word = i * 8 + (j >> 1) * 4 + lane % 4;
        q[i][j] = r < rows ? words[r * (kE / 2) + word] : 0;
      }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kE / 8; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
    m[0] = m[1] = -std::numeric_limits<float>::infinity();
    l[0] = l[1] = 0.f;
  }

  // Takes the 16 tokens of a stage, of which the first `left` count (all, if more).
  __device__ __forceinline__ void Attend(uint32_t stage, int left, float scale_log2) {
    float s[2][4];  // of tokens 0-7 and 8-15
    Scores(stage, s);
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool counts = i * 8 + lane % 4 * 2 + (j & 1) < left;
        s[i][j] = counts ? s[i][j] * scale_log2 : -std::numeric_limits<float>::infinity();
      }
    Rescale(s);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[0][j] = Exp2(s[0][j] - m[j / 2]);
      s[1][j] = Exp2(s[1][j] - m[j / 2]);
      l[j / 2] += s[0][j] + s[1][j];
    }
    const uint32_t p[4] = {PackHalves<T>(s[0][0], s[0][1]), PackHalves<T>(s[0][2], s[0][3]),
                           PackHalves<T>(s[1][0], s[1][1]), PackHalves<T>(s[1][2], s[1][3])};
    const int row = lane % 8 + (lane / 8 & 1) * 8;
#pragma unroll
    for (int j = 0; j < kE / 16; ++j) {
      uint32_t v[4];
      LoadMatricesTransposed(stage + kTileBytes + SwizzledBytes<kE>(row, j * 2 + lane / 16), v);
      MultiplyAdd<T>(o[j * 2], p, v[0], v[1]);
      MultiplyAdd<T>(o[j * 2 + 1], p, v[2], v[3]);
    }
  }

  // Leaves the sums in `sums` and each row's maximum and denominator in `states`.
  __device__ __forceinline__ void Publish(int rows, float* sums, float2* states) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      float sum = l[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (row >= rows) continue;
      if (lane % 4 == 0) states[row] = {m[half], sum};
#pragma unroll
      for (int j = 0; j < kE / 8; ++j)
        *reinterpret_cast<float2*>(sums + SumAt<kE>(row, j * 8 + lane % 4 * 2)) = {
            o[j][half * 2], o[j][half * 2 + 1]};
    }
  }

 private:
  __device__ __forceinline__ void Scores(uint32_t stage, float (&s)[2][4]) const {
    const int lane = threadIdx.x % kWarp, row = lane % 8 + lane / 16 * 8;
    float odd[2][4] = {};  // half of the products in a chain of their own, for latency
#pragma unroll
    for (int j = 0; j < 4; ++j) s[0][j] = s[1][j] = 0.f;
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) {
      uint32_t k[4];
      LoadMatrices(stage + SwizzledBytes<kE>(row, i * 2 + (lane / 8 & 1)), k);
      MultiplyAdd<T>(i % 2 == 0 ? s[0] : odd[0], q[i], k[0], k[1]);
      MultiplyAdd<T>(i % 2 == 0 ? s[1] : odd[1], q[i], k[2], k[3]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) s[0][j] += odd[0][j], s[1][j] += odd[1][j];
  }

  // Brings the state to a maximum that covers `s` too.
  __device__ __forceinline__ void Rescale(const float (&s)[2][4]) {
    float max[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max[i] = fmaxf(fmaxf(s[0][i * 2], s[0][i * 2 + 1]), fmaxf(s[1][i * 2], s[1][i * 2 + 1]));
      max[i] = fmaxf(max[i], __shfl_xor_sync(~0u, max[i], 1));
      max[i] = fmaxf(max[i], __shfl_xor_sync(~0u, max[i], 2));
    }
    if (!__any_sync(~0u, max[0] > m[0] || max[1] > m[1])) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max[i] = fmaxf(max[i], m[i]);
      const float factor = Exp2(m[i] - max[i]);
      m[i] = max[i];
      l[i] *= factor;
#pragma unroll
      for (int j = 0; j < kE / 8; ++j) o[j][i * 2] *= factor, o[j][i * 2 + 1] *= factor;
    }
  }
};

}  // namespace tessera
