// The kernel of packed_gemm_sm90.h, for both widths of weights.
#pragma once

#include <cstdint>
#include <utility>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda.h>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/flag_slots.h"
#include "kernels/gemm/packed_gemm_load.cuh"
#include "kernels/gemm/packed_gemm_sm90.h"
#include "kernels/gemm/packed_gemm_store.cuh"
#include "kernels/gemm/packed_gemm_unpack.cuh"
#include "kernels/gemm/packed_gemm_walk.cuh"
#include "kernels/gemm/packed_gemm_wgmma.cuh"

namespace tessera {
namespace {

// 0 between launches.
__device__ uint32_t flags[kFlagSlots][kPackedMaxBlocks * kMaxGroups];

// A lane multiplies two rows of W, lane / 4 of either half of its warp's 16. These are the first,
// within the tile, and how far on the second is: gated products take eight gate rows, then their
// eight up rows.
__device__ __forceinline__ int FirstRow(bool gated, int thread) {
  return thread / kWarp * (gated ? 8 : 16) + thread % kWarp / 4;
}
template <typename Shape>
__device__ __forceinline__ int RowsOn(bool gated) {
  return gated ? Shape::kRows / 2 : 8;
}

// A warpgroup that multiplies 64 rows of W. Its weights go from shared memory to registers, are
// unpacked there and multiply x's tile as the left operand, a batch of steps ahead of the products.
template <typename T, typename Shape>
class PackedConsumer {
 public:
  __device__ __forceinline__ PackedConsumer(const PackedGemmParams& p,
                                            const PackedShared<Shape>& shared)
      : p_(p),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x)),
        row_(FirstRow(p.gated, thread_)),
        outputs_(p, shared, thread_) {}

  __device__ __forceinline__ void ComputeAll() {
    WaitForPrevious();
    PackedItem item;
    for (int turn = 0; PackedWalk::Item(p_, turn, item); ++turn) {
      zeros_on_ = p_.gated
                      ? Shape::kZeroHalfBytes + PackedRows<Shape>(p_, item.row_tile).ZerosOff(1)
                      : RowsOn<Shape>(false) * Shape::kBits / 8;
      Multiply(item.end - item.first);
      // The item is found anew, to save the products its registers.
      asm volatile("" : "+r"(turn));
      PackedWalk::Item(p_, turn, item);
      Finish(item);
    }
  }

 private:
  static constexpr int kBatch = Shape::kBatch;
  static constexpr int kBatches = Shape::kSteps / kBatch;
  static constexpr Unpacked kUnpacked =
      Shape::kScaledSums ? Unpacked::kIntegers : Unpacked::kWeights;

  // From the sums of an item to outputs, or partial sums.
  __device__ __forceinline__ void Finish(const PackedItem& item) {
    const PartialSums<Shape> partial(p_.partial, flags[p_.flag_slot], thread_);
    const int block = PackedWalk::Block();
    if (item.first > 0) {
      partial.Give(block, Sums());
      return;
    }
    if (item.end < p_.stages) {
      int end = block + 1;
      while (end < p_.shared_blocks && PackedWalk::RunStart(p_, end) < (item.tile + 1) * p_.stages)
        ++end;
      partial.Add(block + 1, end, Sums());
    }
    outputs_.Store(item, Sums());
  }

  // How often scales change in a stage is a constant, and releasing one no branch, since ptxas lets
  // products overlap with straight code only.
  __device__ __forceinline__ void Multiply(int stages) {
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) d_[i] = 0.f;
    if constexpr (Shape::kScaledSums) {
#pragma unroll
      for (int i = 0; i < Shape::kSums; ++i) sums_[i] = 0.f;
      scales_[0] = scales_[1] = 0.f;
    }
    used_ = panel_free_ = 0;
    for (; stages > 0; --stages) {
      WaitAt(shared_.Full(ring_.at), ring_.parity);
      stage_ = shared_.Stage(ring_.at);
      Batches<0>();
      NextStage();
    }
    TakeSums();
    Release(panel_free_);
    Release(used_);
  }

  // Waits for the products, and adds the stage's sums, scaled.
  __device__ __forceinline__ void TakeSums() {
    WaitForProducts<0>();
    PinRegisters(d_);
    if constexpr (Shape::kScaledSums) {
#pragma unroll
      for (int i = 0; i < Shape::kSums; ++i) sums_[i] += scales_[i % 4 / 2] * d_[i];
    }
  }

  // Of the item.
  __device__ __forceinline__ float (&Sums())[Shape::kSums] {
    if constexpr (Shape::kScaledSums)
      return sums_;
    else
      return d_;
  }

  // Batch kAt of a stage and those behind it. While it is unpacked, the products of the one before
  // run; those before them are done with their registers, at a panel's second batch with the panel
  // before, and at a stage's with the stage before.
  template <int kAt>
  __device__ __forceinline__ void Batches() {
    if constexpr (kAt < kBatches) {
      constexpr int kInPanel = kAt % (Shape::kPanelSteps / kBatch);
      WaitForProducts<1>();
      if constexpr (kInPanel == 1) Release(used_panel_);
      if constexpr (kAt == 1) Release(used_);
      UnpackBatch<kAt * kBatch, 0>();
      if constexpr (kInPanel == 0) NextPanel();
      constexpr bool kFresh = Shape::kScaledSums && kAt == 0;
      if constexpr (kFresh) {
        TakeSums();
        scales_[0] = next_scales_[0];
        scales_[1] = next_scales_[1];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) PinRegisters(a_[kAt % 2][i]);
      FenceProducts();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint64_t x = MatrixDescriptor(tile_, (kInPanel * kBatch + i) * 32);
        if (kFresh && i == 0)
          RegisterTimesTokens<T, true>(d_, a_[kAt % 2][i], x);
        else
          RegisterTimesTokens<T, false>(d_, a_[kAt % 2][i], x);
      }
      CommitProducts();
      Batches<kAt + 1>();
    }
  }

  template <int kFirst, int kIndex>
  __device__ __forceinline__ void UnpackBatch() {
    if constexpr (kIndex < kBatch) {
      constexpr int kStep = kFirst + kIndex, kBlockSteps = Shape::kSteps / Shape::kBlocks;
      constexpr int kWord = kStep % kBlockSteps * 4 / kBlockSteps;
      if constexpr (kStep % kBlockSteps == 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          words_[half] = LoadShared16(stage_ + kStep / kBlockSteps * Shape::kBlockBytes +
                                      (row_ + half * RowsOn<Shape>(p_.gated)) *
                                          static_cast<int>(kPackedBlockBytes) +
                                      thread_ % 4 * 16);
      }
      if constexpr (kStep * Shape::kSlots % Shape::kSteps == 0)
        SetScales(kStep * p_.slots / Shape::kSteps);
      UnpackStep<kStep, kUnpacked, !Shape::kZeros>(
          rows_, Word<kWord>(words_[0]), Word<kWord>(words_[1]), a_[kFirst / kBatch % 2][kIndex]);
      UnpackBatch<kFirst, kIndex + 1>();
    }
  }

  __device__ __forceinline__ void SetScales(int slot) {
    const uint32_t scales = stage_ + Shape::kScalesAt + slot * Shape::kScaleSlotBytes + row_ * 2;
    const uint32_t zeros =
        stage_ + Shape::kZerosAt + slot * Shape::kZeroSlotBytes + row_ * Shape::kBits / 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint16_t scale = LoadShared2(scales + half * RowsOn<Shape>(p_.gated) * 2);
      uint32_t zero = 1u << (Shape::kBits - 1);
      if constexpr (Shape::kZeros) {
        uint32_t own = LoadShared1(zeros + half * zeros_on_);
        if constexpr (Shape::kBits == 4) own = own >> (row_ % 2 * 4) & 15u;
        if (p_.zeros != nullptr) zero = own;
      }
      if constexpr (Shape::kScaledSums) next_scales_[half] = __half2float(__ushort_as_half(scale));
      rows_[half].Set(scale, zero);
    }
  }

  __device__ __forceinline__ void NextStage() {
    used_ = shared_.Free(ring_.at);
    ring_.Next();
  }

  // What this warp's products have read is free: `barrier`, or nothing if it is 0. No branch, see
  // Multiply().
  __device__ __forceinline__ void Release(uint32_t barrier) const {
    __syncwarp();
    asm volatile(
        "{\n\t.reg .pred arrives;\n\tsetp.ne.b32 arrives, %1, 0;\n\t"
        "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n\t}" ::"r"(barrier),
        "r"(barrier != 0 && thread_ % kWarp == 0 ? 1 : 0)
        : "memory");
  }

  // Waits for the next panel of x.
  __device__ __forceinline__ void NextPanel() {
    WaitAt(shared_.PanelFull(panel_.at), panel_.parity);
    tile_ = TileDescriptor(shared_.Panel(panel_.at), 16);
    used_panel_ = panel_free_;
    panel_free_ = shared_.PanelFree(panel_.at);
    panel_.Next();
  }

  template <int kWord>
  static __device__ __forceinline__ uint32_t Word(const uint4& v) {
    return kWord == 0 ? v.x : kWord == 1 ? v.y : kWord == 2 ? v.z : v.w;
  }

  const PackedGemmParams& p_;
  const PackedShared<Shape>& shared_;
  const int thread_;
  const int row_;  // the lane's first
  OutputTile<T, Shape> outputs_;
  int zeros_on_ = 0;  // bytes from its zero to the second's
  uint32_t stage_ = 0, tile_ = 0;
  RingPlace<Shape::kStages> ring_;
  RingPlace<Shape::kXPanels> panel_;
  // The Free barriers of the item's stage and panel before those at work, and of the panel; 0:
  // none.
  uint32_t used_ = 0, used_panel_ = 0, panel_free_ = 0;
  RowUnpacker<T, Shape::kBits> rows_[2];
  uint4 words_[2];
  uint32_t a_[2][kBatch][4];
  float d_[Shape::kSums];
  // With scaled sums, d_ is of one stage.
  float sums_[Shape::kScaledSums ? Shape::kSums : 1], scales_[2], next_scales_[2];
};

// Persistent blocks, one a multiprocessor; PackedWalk says which tiles they take.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    PackedGemmKernel(const __grid_constant__ PackedGemmParams p,
                     const __grid_constant__ CUtensorMap x,
                     const __grid_constant__ CUtensorMap weights,
                     const __grid_constant__ CUtensorMap y,
                     const __grid_constant__ CUtensorMap residual) {
  extern __shared__ __align__(1024) char memory[];
  LetNextStart();
  const PackedShared<Shape> shared{SharedAddress(memory)};
  if (threadIdx.x == 0) {
    PrefetchMap(x);
    PrefetchMap(weights);
    if (!p.f32) PrefetchMap(y);
    if (p.residual != nullptr) PrefetchMap(residual);
    shared.InitBarriers();
  }
  __syncthreads();
  if (threadIdx.x < Shape::kConsumerThreads) {
    GrowRegisters<Shape::kConsumerRegisters>();
    PackedConsumer<T, Shape>(p, shared).ComputeAll();
  } else {
    ShrinkRegisters<Shape::kLoaderRegisters>();
    StageLoader<Shape> loader(p, shared);
    const int warp = static_cast<int>(threadIdx.x - Shape::kConsumerThreads) / kWarp;
    const bool first_lane = threadIdx.x % kWarp == 0;
    if (warp == 0 && first_lane) loader.LoadInputs(x);
    if (warp == 1 && first_lane) loader.LoadWeights(weights);
    if (warp == 2) loader.LoadScales();
    const int group = static_cast<int>(threadIdx.x) % kWarp;
    if (warp == 3 && group < Shape::kGroups)
      OutputMover<Shape>(p, shared, group).MoveAll(y, residual);
  }
}

// Groups that a stage of k may hold: 1, 2, 4 or 8.
int GroupsInStage(const PackedWeight& w) {
  if (w.group_of_step != nullptr) return static_cast<int>(kPackedStageK / kPackedStep);
  if (w.group < kPackedStageK && w.group < w.k) return static_cast<int>(kPackedStageK / w.group);
  return 1;
}

PackedGemmParams ParamsOf(const LinearArgs& a, const PackedGemmPlan& plan,
                          const PackedScratch& scratch) {
  const PackedWeight& w = a.packed;
  const int64_t steps = w.k / kPackedStep;
  PackedGemmParams p = {};
  p.values = static_cast<const char*>(w.values);
  p.scales = static_cast<const char*>(w.scales);
  p.zeros = static_cast<const char*>(w.zeros);
  p.group_of_step = w.group_of_step;
  p.rows = w.n;
  p.zero_stride = PackedZeroStride(w.bits, w.n);
  p.slots = GroupsInStage(w);
  const int64_t group_stages = w.group >= w.k ? plan.stages : w.group / kPackedStageK;
  if (p.slots == 1) p.group_factor = static_cast<uint32_t>(CeilDiv(int64_t{1} << 31, group_stages));
  p.last_group = static_cast<int>(w.groups - 1);
  p.last_step = static_cast<int>(steps - 1);
  p.bias = a.bias;
  p.residual = a.residual;
  p.y = a.y;
  p.f32 = a.y_dtype == DType::kF32;
  p.gated = a.gated;
  p.weights_once = plan.token_tiles == 1;
  p.t = a.t;
  p.n = a.n;
  constexpr int kBandTokens = 2048;
  p.band = kBandTokens / plan.tile.tokens;
  p.row_tiles = static_cast<int>(plan.row_tiles);
  p.token_tiles = static_cast<int>(plan.token_tiles);
  p.stages = static_cast<int>(plan.stages);
  p.shared_tiles = static_cast<int>(plan.shared_tiles);
  p.shared_blocks = plan.shared_blocks;
  p.partial = scratch.partial;
  p.flag_slot = scratch.flag_slot;
  return p;
}

template <typename T, typename Shape>
absl::Status LaunchShapeOf(const LinearArgs& a, const PackedGemmPlan& plan,
                           const PackedScratch& scratch, cudaStream_t stream) {
  const PackedWeight& w = a.packed;
  CUtensorMap x, weights, y, residual;
  RETURN_IF_ERROR(MapPanels("packed_gemm", a.x, a.t, a.k, Shape::kTokens, a.dtype, &x));
  // A row of the map is a tile of 8 rows of W. A box lies in shared memory row of W by row of W, 64
  // bytes each.
  const int64_t tile_words = PackedRowBytes(w.bits, w.k) * kPackedTileRows / kWordBytes;
  RETURN_IF_ERROR(
      MapTensor("packed_gemm",
                {.type = CU_TENSOR_MAP_DATA_TYPE_UINT32,
                 .base = w.values,
                 .rows = w.n / kPackedTileRows,
                 .columns = tile_words,
                 .row_bytes = tile_words * kWordBytes,
                 .box_rows = (a.gated ? Shape::kRows / 2 : Shape::kRows) / kPackedTileRows,
                 .box_columns = kPackedTileBytes / kWordBytes},
                &weights));
  const auto map_outputs = [&](const void* base, CUtensorMap* map) {
    return MapTensor("packed_gemm",
                     {.type = MapType(a.dtype),
                      .base = base,
                      .rows = a.t,
                      .columns = a.n,
                      .row_bytes = a.n * 2,
                      .box_rows = Shape::kOutTokens,
                      .box_columns = OutputsOfGroup(a.gated),
                      .swizzle = a.gated ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B},
                     map);
  };
  // fp32 outputs have no use for either.
  y = residual = x;
  if (a.y_dtype != DType::kF32) {
    RETURN_IF_ERROR(map_outputs(a.y, &y));
    if (a.residual != nullptr) RETURN_IF_ERROR(map_outputs(a.residual, &residual));
  }
  const auto kernel = PackedGemmKernel<T, Shape>;
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes),
      "packed_gemm shared memory");
  const LaunchShape launch{dim3(static_cast<unsigned>(plan.blocks)), dim3(Shape::kThreads),
                           Shape::kBytes, stream};
  return LaunchDependent("packed_gemm launch", kernel, launch, ParamsOf(a, plan, scratch), x,
                         weights, y, residual);
}

// Stages have room for 1, 4 or 8 groups.
template <typename T, int kBits, PackedTile kTile>
absl::Status LaunchTile(const LinearArgs& a, const PackedGemmPlan& plan,
                        const PackedScratch& scratch, cudaStream_t stream) {
  const int slots = GroupsInStage(a.packed);
  if (slots == 1 && a.packed.zeros == nullptr)
    return LaunchShapeOf<T, PackedShape<kBits, 1, false, kTile>>(a, plan, scratch, stream);
  if (slots == 1)
    return LaunchShapeOf<T, PackedShape<kBits, 1, true, kTile>>(a, plan, scratch, stream);
  if (slots <= 4)
    return LaunchShapeOf<T, PackedShape<kBits, 4, true, kTile>>(a, plan, scratch, stream);
  return LaunchShapeOf<T, PackedShape<kBits, 8, true, kTile>>(a, plan, scratch, stream);
}

template <typename T, int kBits, size_t... kIndices>
absl::Status LaunchOneOf(const LinearArgs& a, const PackedGemmPlan& plan,
                         const PackedScratch& scratch, cudaStream_t stream,
                         std::index_sequence<kIndices...> /*tiles*/) {
  absl::Status status = absl::UnimplementedError(absl::StrCat(
      "packed_gemm: no tile of ", plan.tile.rows, " rows, ", plan.tile.tokens, " tokens"));
  ((plan.tile == kPackedTiles[kIndices]
        ? void(status = LaunchTile<T, kBits, kPackedTiles[kIndices]>(a, plan, scratch, stream))
        : void()),
   ...);
  return status;
}

template <int kBits>
absl::Status LaunchBits(const LinearArgs& a, const PackedGemmPlan& plan,
                        const PackedScratch& scratch, cudaStream_t stream) {
  return VisitHalf(a.dtype, "packed_gemm", [&]<typename T>(TypeTag<T>) {
    return LaunchOneOf<T, kBits>(a, plan, scratch, stream,
                                 std::make_index_sequence<kPackedTiles.size()>());
  });
}

}  // namespace
}  // namespace tessera
