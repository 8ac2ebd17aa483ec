#include <cstdint>
#include <limits>

#include "common/status_macros.h"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/attention/prefill_attention.h"
#include "kernels/attention/prefill_attention_sm90.h"
#include "kernels/attention/prefill_tile.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"

namespace tessera {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 128;    // packed query rows of a block: 32 a warp, two tensor-core tiles
constexpr int kTokens = 64;   // of context at a time
constexpr int kRowTiles = 2;  // of 16 rows, in a warp
constexpr int kTokenTiles = kTokens / 8;
constexpr int kRuns = kTokens / kKvRunTokens;

template <int kE>
struct SharedTiles {
  static constexpr int kQueryBytes = kRows * kE * 2;
  static constexpr int kTileBytes = kTokens * kE * 2;  // of k, then of v
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kBytes = kQueryBytes + 2 * kStageBytes;
};

// Copies of keys and values, tile after tile.
template <int kE>
class KvLoader {
 public:
  __device__ __forceinline__ KvLoader(const PrefillParams& p, const PrefillTile& tile, int tokens,
                                      uint32_t stages)
      : p_(p), tile_(tile), tokens_(tokens), stages_(stages) {
    ahead_runs_ = LookUp(0);
  }

  // Starts the copies of the next 64 tokens into the two stages in turn; tokens from `tokens` on
  // are zeros.
  __device__ __forceinline__ void LoadNext() {
    constexpr int kPieces = kE / 8, kTilesPerLookUp = kWarp / kRuns;
    if (next_ % kTilesPerLookUp == 0) {
      runs_ = ahead_runs_;
      ahead_runs_ = LookUp((next_ + kTilesPerLookUp) * kRuns);
    }
    const int first_run = next_ % kTilesPerLookUp * kRuns;
    const uint32_t to = stages_ + (next_ & 1) * SharedTiles<kE>::kStageBytes;
#pragma unroll
    for (int i = 0; i < kTokens * kPieces / kThreads; ++i) {
      const int index = threadIdx.x + i * kThreads, row = index / kPieces, piece = index % kPieces;
      const int run = __shfl_sync(~0u, runs_, first_run + row / kKvRunTokens);
      const int64_t from =
          (int64_t{run} * kKvRunTokens + row % kKvRunTokens) * (kE * 2) + piece * 16;
      const bool valid = next_ * kTokens + row < tokens_;
      const uint32_t at = to + SwizzledBytes<kE>(row, piece);
      CopyAsync16(at, static_cast<const char*>(p_.kv.k) + from, valid);
      CopyAsync16(at + SharedTiles<kE>::kTileBytes, static_cast<const char*>(p_.kv.v) + from,
                  valid);
    }
    CommitCopies();
    ++next_;
  }

 private:
  // Lane i: where the i-th run of 16 tokens from run `first` on lies. Read a look-up ahead.
  __device__ __forceinline__ int LookUp(int first) const {
    const int token = (first + static_cast<int>(threadIdx.x) % kWarp) * kKvRunTokens;
    return token < tokens_ ? KvRun(p_.kv, tile_.slot, tile_.kv_head, token) : 0;
  }

  const PrefillParams& p_;
  const PrefillTile& tile_;
  const int tokens_;
  const uint32_t stages_;
  int next_ = 0, runs_ = 0, ahead_runs_ = 0;
};

// A warp's 32 rows: sums, maxima and this lane's part of the denominators, as fragments.
template <typename T, int kE>
struct WarpRows {
  float o[kRowTiles][kE / 8][4] = {};
  float m[kRowTiles][2], l[kRowTiles][2] = {};

  __device__ __forceinline__ WarpRows() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) m[i][0] = m[i][1] = -std::numeric_limits<float>::infinity();
  }

  __device__ __forceinline__ void Scores(uint32_t query, uint32_t keys,
                                         float (&s)[kRowTiles][kTokenTiles][4]) const {
    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * 32;
    const int q_row = warp_row + lane % 16, k_row = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) s[i][j][0] = s[i][j][1] = s[i][j][2] = s[i][j][3] = 0;
#pragma unroll
    for (int step = 0; step < kE / 16; ++step) {
      uint32_t q[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
        LoadMatrices(query + SwizzledBytes<kE>(q_row + i * 16, step * 2 + lane / 16), q[i]);
#pragma unroll
      for (int j = 0; j < kTokenTiles / 2; ++j) {
        uint32_t k[4];
        LoadMatrices(keys + SwizzledBytes<kE>(k_row + j * 16, step * 2 + (lane / 8 & 1)), k);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          MultiplyAdd<T>(s[i][j * 2], q[i], k[0], k[1]);
          MultiplyAdd<T>(s[i][j * 2 + 1], q[i], k[2], k[3]);
        }
      }
    }
  }

  // Softmax over what was seen so far and `s`, which becomes the exponentials.
  __device__ __forceinline__ void Exponentials(float scale_log2,
                                               float (&s)[kRowTiles][kTokenTiles][4]) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float max = m[i][half];
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
          max = fmaxf(max, fmaxf(s[i][j][half * 2], s[i][j][half * 2 + 1]));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        // A row that sees nothing yet keeps sums of 0 instead of NaN.
        const float base = max == -std::numeric_limits<float>::infinity() ? 0.f : max * scale_log2;
        const float factor = Exp2(m[i][half] * scale_log2 - base);
        m[i][half] = max;
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
          for (int k = half * 2; k < half * 2 + 2; ++k) {
            s[i][j][k] = Exp2(fmaf(s[i][j][k], scale_log2, -base));
            sum += s[i][j][k];
          }
        l[i][half] = l[i][half] * factor + sum;
#pragma unroll
        for (int j = 0; j < kE / 8; ++j)
          o[i][j][half * 2] *= factor, o[i][j][half * 2 + 1] *= factor;
      }
  }

  __device__ __forceinline__ void AddValues(uint32_t values,
                                            const float (&s)[kRowTiles][kTokenTiles][4]) {
    const int lane = threadIdx.x % kWarp, v_row = lane % 16;
#pragma unroll
    for (int step = 0; step < kTokenTiles / 2; ++step) {
      uint32_t p[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* pair = &s[i][step * 2 + j / 2][j % 2 * 2];
          p[i][j] = PackHalves<T>(pair[0], pair[1]);
        }
#pragma unroll
      for (int j = 0; j < kE / 16; ++j) {
        uint32_t v[4];
        LoadMatricesTransposed(values + SwizzledBytes<kE>(v_row + step * 16, j * 2 + lane / 16), v);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          MultiplyAdd<T>(o[i][j * 2], p[i], v[0], v[1]);
          MultiplyAdd<T>(o[i][j * 2 + 1], p[i], v[2], v[3]);
        }
      }
    }
  }
};

// Scores of tokens that a row must not see become -infinity. `first_token` is the tile's.
__device__ __forceinline__ void Mask(const PrefillTile& tile, const Divisor& group, int first_token,
                                     float (&s)[kRowTiles][kTokenTiles][4]) {
  const int lane = threadIdx.x % kWarp;
  const int row = tile.first_row + static_cast<int>(threadIdx.x) / kWarp * 32 + lane / 4;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int left = tile.Visible(row + i * 16 + half * 8, group) - first_token;
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k)
          if (j * 8 + lane % 4 * 2 + k >= left)
            s[i][j][half * 2 + k] = -std::numeric_limits<float>::infinity();
    }
}

// The row of q, and the head of it, that a packed row is.
struct HeadPlace {
  int64_t row;
  int head;
};
__device__ __forceinline__ HeadPlace PlaceOfRow(const PrefillParams& p, const PrefillTile& tile,
                                                int row) {
  const int token = p.group.Quotient(row), in_group = row - token * p.group.value;
  return {int64_t{tile.q_row} + token, tile.kv_head * p.group.value + in_group};
}

template <int kE>
__device__ __forceinline__ void LoadQueries(const PrefillParams& p, const PrefillTile& tile,
                                            uint32_t to) {
  constexpr int kPieces = kE / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
    const int row = tile.first_row + i / kPieces;
    const bool valid = row < tile.rows;
    const HeadPlace at = PlaceOfRow(p, tile, row);
    const int64_t from = valid ? (at.row * p.h + at.head) * (kE * 2) : 0;
    CopyAsync16(to + SwizzledBytes<kE>(i / kPieces, i % kPieces),
                static_cast<const char*>(p.q) + from + i % kPieces * 16, valid);
  }
}

// Divides, and stores through the warp's own rows of the query tile, for 16-byte writes.
template <typename T, int kE>
__device__ __forceinline__ void SaveRows(const PrefillParams& p, const PrefillTile& tile,
                                         WarpRows<T, kE>& rows, char* shared) {
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * 32;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float l = rows.l[i][half];
      l += __shfl_xor_sync(~0u, l, 1);
      l += __shfl_xor_sync(~0u, l, 2);
      const float inverse = l > 0.f ? 1.f / l : 0.f;  // a row that sees nothing gives zeros
      const int row = warp_row + i * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int j = 0; j < kE / 8; ++j)
        *reinterpret_cast<uint32_t*>(shared + SwizzledBytes<kE>(row, j) + lane % 4 * 4) =
            PackHalves<T>(rows.o[i][j][half * 2] * inverse, rows.o[i][j][half * 2 + 1] * inverse);
    }
  __syncwarp();
  constexpr int kPieces = kE / 8;
#pragma unroll 4
  for (int i = lane; i < 32 * kPieces; i += kWarp) {
    const int row = warp_row + i / kPieces, packed = tile.first_row + row;
    if (packed >= tile.rows) continue;
    const HeadPlace to = PlaceOfRow(p, tile, packed);
    p.out.Store(to.row, to.head * kE + i % kPieces * 8,
                *reinterpret_cast<const uint4*>(shared + SwizzledBytes<kE>(row, i % kPieces)));
  }
}

// One block per (tile of kRows packed rows, kv head), warp w owning rows [32 w, 32 w + 32); keys
// and values pass through two stages of 64 tokens. 96 KiB of shared memory at e = 128, so that two
// blocks share a multiprocessor and one multiplies while the other takes exponentials.
template <typename T, int kE>
__global__ void __launch_bounds__(kThreads, 2)
    PrefillAttentionKernel(const __grid_constant__ PrefillParams p) {
  extern __shared__ __align__(128) char shared[];
  LetNextStart();
  const PrefillTile tile =
      FindPrefillTile<kRows>(p, 0, p.kv.kv_heads, static_cast<int>(blockIdx.x));
  WaitForPrevious();
  ZeroTailRows<kThreads>(p);
  if (tile.sequence < 0) return;

  const uint32_t query = SharedAddress(shared), stages = query + SharedTiles<kE>::kQueryBytes;
  const int last_row = min(tile.first_row + kRows, tile.rows) - 1;
  const int tokens = tile.Visible(last_row, p.group);
  const int all_see = tile.Visible(tile.first_row, p.group);
  LoadQueries<kE>(p, tile, query);
  WarpRows<T, kE> rows;
  KvLoader<kE> loader(p, tile, tokens, stages);
  const int tiles = (tokens + kTokens - 1) / kTokens;
  loader.LoadNext();
  for (int i = 0; i < tiles; ++i) {
    WaitForCopies<0>();
    __syncthreads();  // the tile is there, and every warp is done with the other stage
    if (i + 1 < tiles) loader.LoadNext();
    const uint32_t keys = stages + (i & 1) * SharedTiles<kE>::kStageBytes;
    float s[kRowTiles][kTokenTiles][4];
    rows.Scores(query, keys, s);
    if ((i + 1) * kTokens > all_see) Mask(tile, p.group, i * kTokens, s);
    rows.Exponentials(p.scale_log2, s);
    rows.AddValues(keys + SharedTiles<kE>::kTileBytes, s);
  }
  WaitForCopies<0>();
  __syncthreads();  // when there were no tiles, the queries' copies may still be landing
  SaveRows<T, kE>(p, tile, rows, shared);
}

template <typename T, int kE>
absl::Status Launch(const PagedAttentionArgs& a, const Stream& stream) {
  constexpr int kSharedBytes = SharedTiles<kE>::kBytes;
  const auto kernel = PrefillAttentionKernel<T, kE>;
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "paged_attention prefill shared memory");
  // Each sequence can leave one tile part full.
  const int64_t rows = (a.t - a.decode_sequences) * (a.h / a.g);
  const int64_t tiles = rows / kRows + a.s - a.decode_sequences;
  const LaunchShape shape{dim3(static_cast<unsigned>(tiles * a.g)), dim3(kThreads), kSharedBytes,
                          stream.cuda};
  return LaunchDependent("paged_attention prefill launch", kernel, shape, PrefillParamsOf(a));
}

}  // namespace

absl::Status LaunchPrefillAttention(const PagedAttentionArgs& a, const Stream& stream) {
  if (ServesPrefillSm90(a)) return LaunchPrefillAttentionSm90(a, stream);
  return VisitHalf(a.dtype, "paged_attention", [&]<typename T>(TypeTag<T>) {
    if (a.e == 32) return Launch<T, 32>(a, stream);
    if (a.e == 64) return Launch<T, 64>(a, stream);
    return Launch<T, 128>(a, stream);
  });
}

}  // namespace tessera
