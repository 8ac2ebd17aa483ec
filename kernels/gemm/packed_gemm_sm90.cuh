// The kernel of packed_gemm_sm90.h, for both widths of weights.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda.h>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/packed_gemm_load.cuh"
#include "kernels/gemm/packed_gemm_sm90.h"
#include "kernels/gemm/packed_gemm_store.cuh"
#include "kernels/gemm/packed_gemm_unpack.cuh"
#include "kernels/gemm/packed_gemm_walk.cuh"
#include "kernels/gemm/packed_gemm_wgmma.cuh"

namespace tessera {
namespace {

__device__ uint32_t flags[kPackedFlagSlots][kPackedMaxBlocks * kMaxGroups];

// A warpgroup that multiplies 64 rows of W. Its weights go from shared memory to registers, are
// unpacked there and multiply x's tile as the left operand, a batch of steps ahead of the products.
template <typename T, typename Shape>
class PackedConsumer {
 public:
  __device__ __forceinline__ PackedConsumer(const PackedGemmParams& p,
                                            const PackedShared<Shape>& shared)
      : p_(p), shared_(shared), ring_(p, shared), thread_(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void ComputeAll() {
    ring_.Fill();
    WaitForPrevious();
    const PartialSums<Shape> partial(p_.partial, flags[p_.flag_slot], thread_);
    PackedWalk walk(p_);
    PackedItem item;
    while (walk.Next(p_, item)) {
      Multiply(item);
      if (item.first > 0) {
        partial.Give(PackedWalk::Block(), d_);
        continue;
      }
      if (item.end < p_.stages) {
        const int tile_end = (item.tile + 1) * p_.stages;
        for (int b = PackedWalk::Block() + 1;
             b < p_.shared_blocks && PackedWalk::RunStart(p_, b) < tile_end; ++b)
          partial.Add(b, d_);
      }
      OutputTile<T, Shape>(p_, item, thread_).Store(d_);
    }
  }

 private:
  static constexpr int kBatch = Shape::kBatch;
  static constexpr int kBatches = Shape::kSteps / kBatch;
  static constexpr int kPanelBatches = Shape::kPanelSteps / kBatch;

  __device__ __forceinline__ void Multiply(const PackedItem& item) {
    if (p_.slots == 1)
      MultiplyAs<1>(item);
    else if (p_.slots < Shape::kSlots)
      MultiplyAs<Shape::kSlots / 2>(item);
    else
      MultiplyAs<Shape::kSlots>(item);
  }

  // Scales change up to kChanges times in a stage: a constant, since ptxas lets products overlap
  // with straight code only.
  template <int kChanges>
  __device__ __forceinline__ void MultiplyAs(const PackedItem& item) {
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) d_[i] = 0.f;
    for (int stage = item.first; stage < item.end; ++stage) {
      stage_ = ring_.Next();
      Batches<kChanges, 0>(stage == item.first);
    }
    WaitForProducts<0>();
    PinRegisters(d_);
    ReleasePanel();
  }

  // Batch kAt of a stage and those behind it. While it is unpacked, the products of the one before
  // run; those before them are done with their registers and, at a panel's second batch, with the
  // panel before.
  template <int kChanges, int kAt>
  __device__ __forceinline__ void Batches(bool first_stage) {
    if constexpr (kAt < kBatches) {
      if constexpr (kAt % kPanelBatches == 0) {
        WaitAt(shared_.Full(panel_.at), panel_.parity);
        tile_ = TileDescriptor(shared_.Panel(panel_.at), 16);
        panel_.Next();
      }
      WaitForProducts<1>();
      if constexpr (kAt % kPanelBatches == 1) {
        if (kAt >= kPanelBatches || !first_stage) ReleasePanel();
      }
      UnpackBatch<kChanges, kAt * kBatch, 0>();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) PinRegisters(a_[kAt % 2][i]);
      FenceProducts();
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        RegisterTimesTokens<T>(d_, a_[kAt % 2][i],
                               MatrixDescriptor(tile_, (kAt % kPanelBatches * kBatch + i) * 32));
      CommitProducts();
      Batches<kChanges, kAt + 1>(first_stage);
    }
  }

  template <int kChanges, int kFirst, int kIndex>
  __device__ __forceinline__ void UnpackBatch() {
    if constexpr (kIndex < kBatch) {
      constexpr int kStep = kFirst + kIndex, kBlockSteps = Shape::kSteps / Shape::kBlocks;
      constexpr int kWord = kStep % kBlockSteps * 4 / kBlockSteps;
      if constexpr (kStep % kBlockSteps == 0) {
        words_[0] = LoadShared16(ring_.Piece(stage_, kStep / kBlockSteps * 2));
        words_[1] = LoadShared16(ring_.Piece(stage_, kStep / kBlockSteps * 2 + 1));
      }
      if constexpr (kStep * kChanges % Shape::kSteps == 0)
        SetScales(kStep * p_.slots / Shape::kSteps);
      UnpackStep<kStep>(rows_, Word<kWord>(words_[0]), Word<kWord>(words_[1]),
                        a_[kFirst / kBatch % 2][kIndex]);
      UnpackBatch<kChanges, kFirst, kIndex + 1>();
    }
  }

  __device__ __forceinline__ void SetScales(int slot) {
    const uint32_t scales = ring_.Scales(stage_) + slot * Shape::kScaleSlotBytes;
    const uint32_t zeros = ring_.Scales(stage_) + Shape::kZerosAt + slot * Shape::kZeroSlotBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = PackedPlaceInWarp(p_.gated, half, thread_ % kWarp);
      uint16_t scale;
      uint32_t zero;
      asm volatile("ld.shared.u16 %0, [%1];" : "=h"(scale) : "r"(scales + place * 2) : "memory");
      asm volatile("ld.shared.u8 %0, [%1];"
                   : "=r"(zero)
                   : "r"(zeros + place * Shape::kBits / 8)
                   : "memory");
      if constexpr (Shape::kBits == 4) zero = zero >> (place % 2 * 4) & 15u;
      zero = p_.zeros != nullptr ? zero : 1u << (Shape::kBits - 1);
      rows_[half].Set(__ushort_as_half(scale), static_cast<int>(zero));
    }
  }

  // The oldest panel that this warp's products have read.
  __device__ __forceinline__ void ReleasePanel() {
    __syncwarp();
    if (thread_ % kWarp == 0) ArriveAt(shared_.Free(released_.at));
    released_.Next();
  }

  template <int kWord>
  static __device__ __forceinline__ uint32_t Word(const uint4& v) {
    return kWord == 0 ? v.x : kWord == 1 ? v.y : kWord == 2 ? v.z : v.w;
  }

  const PackedGemmParams& p_;
  const PackedShared<Shape>& shared_;
  WeightRing<Shape> ring_;
  const int thread_;
  uint32_t stage_ = 0, tile_ = 0;
  RingPlace<Shape::kXPanels> panel_, released_;
  RowUnpacker<T, Shape::kBits> rows_[2];
  uint4 words_[2];
  uint32_t a_[2][kBatch][4];
  float d_[Shape::kSums];
};

// Persistent blocks, one a multiprocessor; PackedWalk says which tiles they take.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    PackedGemmKernel(const __grid_constant__ PackedGemmParams p,
                     const __grid_constant__ CUtensorMap x) {
  extern __shared__ __align__(1024) char memory[];
  LetNextStart();
  const PackedShared<Shape> shared{SharedAddress(memory)};
  if (threadIdx.x == 0) shared.InitBarriers();
  __syncthreads();
  if (threadIdx.x < Shape::kConsumerThreads) {
    GrowRegisters<Shape::kConsumerRegisters>();
    PackedConsumer<T, Shape>(p, shared).ComputeAll();
  } else {
    ShrinkRegisters<Shape::kProducerRegisters>();
    if (threadIdx.x == Shape::kConsumerThreads) {
      WaitForPrevious();
      LoadPanels<Shape>(p, x, shared);
    }
  }
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
  p.row_bytes = PackedRowBytes(w.bits, w.k);
  p.rows = w.n;
  p.zero_stride = PackedZeroStride(w.bits, w.n);
  p.slots = 1;
  if (w.group_of_step != nullptr)
    p.slots = static_cast<int>(kPackedStageK / kPackedStep);
  else if (w.group < kPackedStageK && w.group < w.k)
    p.slots = static_cast<int>(kPackedStageK / w.group);
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
  CUtensorMap x;
  RETURN_IF_ERROR(MapPanels("packed_gemm", a.x, a.t, a.k, Shape::kTokens, a.dtype, &x));
  const auto kernel = PackedGemmKernel<T, Shape>;
  RETURN_IF_CUDA_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes),
      "packed_gemm shared memory");
  const LaunchShape launch{dim3(static_cast<unsigned>(plan.blocks)), dim3(Shape::kThreads),
                           Shape::kBytes, stream};
  return LaunchDependent("packed_gemm launch", kernel, launch, ParamsOf(a, plan, scratch), x);
}

// The tiles of kPackedTiles.
template <int kBits>
absl::Status LaunchBits(const LinearArgs& a, const PackedGemmPlan& plan,
                        const PackedScratch& scratch, cudaStream_t stream) {
  return VisitHalf(a.dtype, "packed_gemm", [&]<typename T>(TypeTag<T>) {
    const PackedTile tile = plan.tile;
    if (tile == PackedTile{128, 32})
      return LaunchShapeOf<T, PackedShape<kBits, 2, 32>>(a, plan, scratch, stream);
    if (tile == PackedTile{192, 32})
      return LaunchShapeOf<T, PackedShape<kBits, 3, 32>>(a, plan, scratch, stream);
    if (tile == PackedTile{128, 64})
      return LaunchShapeOf<T, PackedShape<kBits, 2, 64>>(a, plan, scratch, stream);
    if (tile == PackedTile{192, 64})
      return LaunchShapeOf<T, PackedShape<kBits, 3, 64>>(a, plan, scratch, stream);
    if (tile == PackedTile{192, 128})
      return LaunchShapeOf<T, PackedShape<kBits, 3, 128>>(a, plan, scratch, stream);
    if (tile == PackedTile{128, 256})
      return LaunchShapeOf<T, PackedShape<kBits, 2, 256>>(a, plan, scratch, stream);
    return absl::UnimplementedError(
        absl::StrCat("packed_gemm: no tile of ", tile.rows, " rows, ", tile.tokens, " tokens"));
  });
}

}  // namespace
}  // namespace tessera
