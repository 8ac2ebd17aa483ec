#include <algorithm>
#include <bit>
#include <cstdint>

#include <cuda.h>

#include "common/status_macros.h"
#include "kernels/attention/prefill_attention_sm90.h"
#include "kernels/attention/prefill_load.cuh"
#include "kernels/attention/prefill_plan.cuh"
#include "kernels/attention/prefill_rows.cuh"
#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
namespace {

// A warpgroup that computes 64 of a tile's rows, token tiles from the last down. It enqueues the
// scores of one with the sums of the one before, and warpgroups take turns to enqueue, so that one
// multiplies while another takes exponentials (the schedule of FlashAttention-3, Shah et al. 2024).
template <typename T, int kE>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const PrefillParams& p, const PrefillShared<kE>& shared)
      : p_(p), shared_(shared), index_(static_cast<int>(threadIdx.x) / kGroupThreads - 1) {}

  __device__ __forceinline__ void ComputeAll() {
    if (index_ == P::kConsumers - 1) NamedArrive<2 * kGroupThreads>(kFirstTurnBarrier);
    for (;; queries_.Next()) {
      WaitAt(shared_.QueryFull(queries_.at), queries_.parity);
      const PrefillTile& tile = shared_.Tile(queries_.at);
      if (tile.sequence < 0) return;
      FenceForAsyncReaders();
      Compute(tile);
      Save(tile);
      Release(shared_.QueryFree(queries_.at));
    }
  }

 private:
  using P = PrefillPlan<kE>;
  static constexpr int kFirstTurnBarrier = 1;
  static constexpr int kGroupBarrier = kFirstTurnBarrier + P::kConsumers;
  static constexpr int kAllBarrier = kGroupBarrier + P::kConsumers;

  __device__ __forceinline__ void Compute(const PrefillTile& tile) {
    const int tokens = TokensOf<kE>(tile, p_.group);
    const int all_see = tile.Visible(tile.first_row + index_ * kGroupRows, p_.group);
    rows_.Clear();
    int j = (tokens - 1 + kTokens) / kTokens - 1;
    if (j < 0) return;
    First(tile, j, tokens);
    for (--j; j >= 0 && (j + 1) * kTokens > all_see; --j) Step<true>(tile, j, tokens);
    for (; j >= 0; --j) Step<false>(tile, j, tokens);
    WaitAt(shared_.ValuesFull(values_.at), values_.parity);
    FenceProducts();
    rows_.AddValues(shared_.Values(values_.at));
    CommitProducts();
    WaitForProducts<0>();
    PinRegisters(rows_.o);
    Release(shared_.ValuesFree(values_.at));
    values_.Next();
  }

  // The last token tile.
  __device__ __forceinline__ void First(const PrefillTile& tile, int j, int tokens) {
    float s[kTokens / 2], factor[2];
    WaitAt(shared_.KeysFull(keys_.at), keys_.parity);
    FenceProducts();
    rows_.template Scores<P::kRows>(Query(), shared_.Keys(keys_.at), s);
    CommitProducts();
    WaitForProducts<0>();
    PinRegisters(s);
    Release(shared_.KeysFree(keys_.at));
    keys_.Next();
    Mask(tile, p_.group, Row(tile), j * kTokens, tokens, s);
    rows_.Maxima(p_.scale_log2, s, factor);
    rows_.Exponentials(p_.scale_log2, s);
    rows_.Take(s, factor);
    if (tokens % kTokens != 0) ClearValues(tokens % kTokens);
  }

  template <bool kMask>
  __device__ __forceinline__ void Step(const PrefillTile& tile, int j, int tokens) {
    float s[kTokens / 2], factor[2];
    WaitAt(shared_.KeysFull(keys_.at), keys_.parity);
    NamedWait<2 * kGroupThreads>(kFirstTurnBarrier + index_);
    FenceProducts();
    rows_.template Scores<P::kRows>(Query(), shared_.Keys(keys_.at), s);
    CommitProducts();
    WaitAt(shared_.ValuesFull(values_.at), values_.parity);
    FenceProducts();
    rows_.AddValues(shared_.Values(values_.at));
    CommitProducts();
    NamedArrive<2 * kGroupThreads>(kFirstTurnBarrier + (index_ + 1) % P::kConsumers);
    WaitForProducts<1>();
    PinRegisters(s);
    Release(shared_.KeysFree(keys_.at));
    keys_.Next();
    if constexpr (kMask) Mask(tile, p_.group, Row(tile), j * kTokens, tokens, s);
    rows_.Maxima(p_.scale_log2, s, factor);
    rows_.Exponentials(p_.scale_log2, s);
    PinRegisters(s);  // a hint: ptxas may still wait for the products with the values first
    WaitForProducts<0>();
    PinRegisters(rows_.o);
    PinRegisters(rows_.p);
    Release(shared_.ValuesFree(values_.at));
    values_.Next();
    rows_.Take(s, factor);
  }

  // Zeros for the values from token `first` of the next tile on: what lies in the cache behind a
  // context may be NaN, which a weight of 0 does not hide.
  __device__ __forceinline__ void ClearValues(int first) {
    constexpr int kPieces = kE / 8, kAll = P::kConsumers * kGroupThreads;
    WaitAt(shared_.ValuesFull(values_.at), values_.parity);
    char* const values = shared_.start + P::kValuesAt + values_.at * P::kTileBytes;
    for (int i = static_cast<int>(threadIdx.x) - kGroupThreads; i < (kTokens - first) * kPieces;
         i += kAll)
      *reinterpret_cast<uint4*>(values +
                                PanelBytes<kTokens>(first + i / kPieces, i % kPieces)) = {};
    FenceForAsyncReaders();
    NamedWait<kAll>(kAllBarrier);
  }

  // Stores through the queries' own rows, for 16-byte writes.
  __device__ __forceinline__ void Save(const PrefillTile& tile) {
    constexpr int kPieces = kE / 8, kWarpRows = 16, kStep = kWarp / kPieces;
    char* const query = shared_.start + queries_.at * P::kQueryBytes;
    const int lane = threadIdx.x % kWarp, warp_row = WarpRow();
    NamedWait<kGroupThreads>(kGroupBarrier + index_);  // no warp's products read them any more
    rows_.template Store<P::kRows>(query, warp_row);
    __syncwarp();
    RowWalk<kE, kStep> to(p_, tile, tile.first_row + warp_row + lane / kPieces);
#pragma unroll 4
    for (int row = warp_row + lane / kPieces; row < warp_row + kWarpRows; row += kStep, to.Next())
      if (tile.first_row + row < tile.rows)
        p_.out.Store(
            to.Row(), to.Head() * kE + lane % kPieces * 8,
            *reinterpret_cast<const uint4*>(query + PanelBytes<P::kRows>(row, lane % kPieces)));
  }

  // This warp is done with a buffer.
  static __device__ __forceinline__ void Release(uint32_t barrier) {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) ArriveAt(barrier);
  }

  __device__ __forceinline__ uint32_t Query() const {
    return shared_.Query(queries_.at) + index_ * kGroupRows * kPanelRowBytes;
  }
  static __device__ __forceinline__ int WarpRow() {  // of the tile
    return static_cast<int>(threadIdx.x) / kWarp * 16 - kGroupRows;
  }
  static __device__ __forceinline__ int Row(const PrefillTile& tile) {  // the lane's first, packed
    return tile.first_row + WarpRow() + static_cast<int>(threadIdx.x) % kWarp / 4;
  }

  const PrefillParams& p_;
  const PrefillShared<kE>& shared_;
  const int index_;
  RingPlace<P::kQueryStages> queries_;
  RingPlace<P::kStages> keys_;
  RingPlace<P::kStages> values_;
  GroupRows<T, kE> rows_;
};

// Persistent blocks, one a multiprocessor, walk over tiles of kRows packed rows of a kv head
// (prefill_tile.cuh). Keys and values come by TMA in tiles of 128 tokens, queries by cp.async a
// tile ahead, so that loads of a tile overlap with the end of the one before it.
template <typename T, int kE>
__global__ void __launch_bounds__(PrefillPlan<kE>::kThreads, 1)
    PrefillAttentionSm90Kernel(const __grid_constant__ PrefillParams p,
                               const __grid_constant__ Sm90Params sm90) {
  using P = PrefillPlan<kE>;
  extern __shared__ __align__(1024) char memory[];
  LetNextStart();
  const PrefillShared<kE> shared(memory);
  if (threadIdx.x == 0) shared.InitBarriers();
  __syncthreads();
  WaitForPrevious();
  ZeroTailRows<P::kThreads>(p);
  if (threadIdx.x < kGroupThreads) {
    ShrinkRegisters<P::kLoaderRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (warp >= kFirstQueryLoaderWarp)
      LoadQueries<kE>(p, sm90, shared);
    else
      KvLoader<kE>(p, sm90, shared, warp == kKeyLoaderWarp).LoadAll();
  } else {
    GrowRegisters<P::kConsumerRegisters>();
    Consumer<T, kE>(p, shared).ComputeAll();
  }
}

// On long contexts blocks drift apart, and what they share should still be in L2 when the last
// comes. So heads are taken in sections of about 32 MB of keys and values, or one head if it has
// more (64/8, 128k tokens: 600 TFLOP/s instead of 530, H200).
int SectionHeads(const PagedAttentionArgs& a) {
  constexpr int64_t kSectionBytes = int64_t{32} << 20;
  const int64_t bytes = a.g * a.max_context * a.e * 4;
  const int64_t sections = std::clamp<int64_t>(bytes / kSectionBytes, 1, a.g);
  return static_cast<int>((a.g + sections - 1) / sections);
}

template <typename T, int kE>
absl::Status Launch(const PagedAttentionArgs& a, const Stream& stream) {
  using P = PrefillPlan<kE>;
  Sm90Params sm90;
  sm90.box_rows = 1 << std::min(std::countr_zero(static_cast<uint64_t>(a.block_size)),
                                std::countr_zero(static_cast<uint64_t>(kTokens)));
  const int64_t cache_rows = a.blocks * a.g * a.block_size;
  RETURN_IF_ERROR(
      MapPanels("paged_attention", a.k_cache, cache_rows, a.e, sm90.box_rows, a.dtype, &sm90.k));
  RETURN_IF_ERROR(
      MapPanels("paged_attention", a.v_cache, cache_rows, a.e, sm90.box_rows, a.dtype, &sm90.v));
  sm90.section_heads = SectionHeads(a);
  const auto kernel = PrefillAttentionSm90Kernel<T, kE>;
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::kBytes),
      "paged_attention prefill shared memory");
  // Each sequence can leave one tile part full.
  const int64_t rows = (a.t - a.decode_sequences) * (a.h / a.g);
  const int64_t tiles = (rows / P::kRows + a.s - a.decode_sequences) * a.g;
  const int64_t blocks = std::min<int64_t>(tiles, CurrentGpu().sm_count);
  const LaunchShape shape{dim3(static_cast<unsigned>(blocks)), dim3(P::kThreads), P::kBytes,
                          stream.cuda};
  return LaunchDependent("paged_attention prefill launch", kernel, shape, PrefillParamsOf(a), sm90);
}

}  // namespace

bool ServesPrefillSm90(const PagedAttentionArgs& a) {
  // Without a sequence there is no cache to map; TMA's coordinates are 32-bit.
  return CurrentGpu().is_sm90() && (a.e == 64 || a.e == 128) && a.s > a.decode_sequences &&
         a.blocks > 0 && a.blocks * a.g * a.block_size <= INT32_MAX;
}

absl::Status LaunchPrefillAttentionSm90(const PagedAttentionArgs& a, const Stream& stream) {
  return VisitHalf(a.dtype, "paged_attention", [&]<typename T>(TypeTag<T>) {
    if (a.e == 64) return Launch<T, 64>(a, stream);
    return Launch<T, 128>(a, stream);
  });
}

}  // namespace tessera
