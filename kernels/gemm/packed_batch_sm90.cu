#include <cstdint>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/flag_slots.h"
#include "kernels/gemm/packed_batch.h"
#include "kernels/gemm/packed_batch_finish.cuh"
#include "kernels/gemm/packed_batch_load.cuh"
#include "kernels/gemm/packed_batch_multiply.cuh"
#include "kernels/gemm/packed_batch_work.cuh"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
namespace packed_batch {
namespace {

// Of a thread: five warpgroups are given 96 each at launch.
constexpr int kMultiplierRegisters = 104, kHelperRegisters = 64;
static_assert(kPackedBatchWarps == 16 && kPackedBatchHelpers == 4);

__device__ uint32_t flags[kFlagSlots][kPackedBatchBlocks * kWarps];

template <typename T, int kBits, int kEights, bool kZeros>
__global__ void __launch_bounds__(kPackedBatchThreads, 1)
    BatchKernel(const __grid_constant__ Params p, const __grid_constant__ CUtensorMap weights,
                const __grid_constant__ CUtensorMap x) {
  extern __shared__ __align__(1024) char memory[];
  LetNextStart();
  const PackedBatchPlan& plan = p.plan;
  const uint32_t base = SharedAddress(memory);
  const uint32_t depth_sums = base + plan.stages * plan.stage_bytes;
  const uint32_t barriers = depth_sums + (kWarps - plan.strips) * (2 * kEights * kWarp * 16);
  const Ring ring(plan, base, barriers);
  if (threadIdx.x == kWarps * kWarp) {
    PrefetchMap(weights);
    PrefetchMap(x);
    ring.Init();
  }
  __syncthreads();
  const Run run(plan);
  const int warp = WarpIndex();
  if (warp < kWarps) {
    GrowRegisters<kMultiplierRegisters>();
    // Outputs and partial sums may be what kernels before still use.
    WaitForPrevious();
    const StripFinish<T, kEights> finish(p, run, depth_sums, flags[p.flag_slot]);
    Multiplier<T, kBits, kEights, kZeros>(p, run, ring, finish).MultiplyAll();
    return;
  }
  ShrinkRegisters<kHelperRegisters>();
  if (warp == kWarps) {
    if (ElectOne()) ValueLoader<kBits>(p, weights, x).LoadAll(run, ring);
  } else if (warp == kWarps + 1) {
    ScaleLoader<kBits>(p).LoadAll(run, ring);
  }
}

template <typename T, int kBits, int kEights>
absl::Status Launch(const Params& p, cudaStream_t stream) {
  const LinearArgs& a = p.args;
  const PackedBatchPlan& plan = p.plan;
  constexpr int64_t kWordBytes = 4;
  CUtensorMap weights, x;
  RETURN_IF_ERROR(MapTensor("packed_batch",
                            {.type = CU_TENSOR_MAP_DATA_TYPE_UINT32,
                             .base = a.packed.values,
                             .rows = plan.chunks,
                             .columns = kTileBytes / kWordBytes,
                             .row_bytes = kTileBytes,
                             .box_rows = plan.depth,
                             .box_columns = kTileBytes / kWordBytes,
                             .depth = a.packed.n / kTileRows,
                             .depth_bytes = int64_t{plan.chunks} * kTileBytes,
                             .box_depth = plan.strips * (a.gated ? 2 : 4)},
                            &weights));
  RETURN_IF_ERROR(MapTensor("packed_batch",
                            {.type = MapType(a.dtype),
                             .base = a.x,
                             .rows = a.t,
                             .columns = kPanel,
                             .row_bytes = a.k * 2,
                             .box_rows = kEights * 8,
                             .box_columns = kPanel,
                             .swizzle = CU_TENSOR_MAP_SWIZZLE_128B,
                             .depth = a.k / kPanel,
                             .depth_bytes = kPanelRowBytes,
                             .box_depth = plan.depth * PackedBlock(kBits) / kPanel},
                            &x));
  const auto kernel = a.packed.zeros != nullptr ? BatchKernel<T, kBits, kEights, true>
                                                : BatchKernel<T, kBits, kEights, false>;
  RETURN_IF_ERROR(PrepareShared("packed_batch", kernel, CurrentGpu().shared_bytes));
  return LaunchDependent("packed_batch launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .block = dim3(kPackedBatchThreads),
                          .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                          .stream = stream},
                         p, weights, x);
}

}  // namespace
}  // namespace packed_batch

absl::Status LaunchPackedBatch(const LinearArgs& args, const PackedBatchPlan& plan,
                               const LinearWorkspace& workspace, cudaStream_t stream) {
  if (plan.strips == 0 || plan.blocks < 1 || plan.blocks > kPackedBatchBlocks ||
      plan.blocks > int64_t{plan.tiles} * plan.rounds)
    return absl::InvalidArgumentError(
        absl::StrCat("packed_batch: a plan of ", plan.strips, " strips and ", plan.blocks,
                     " blocks for ", plan.tiles, " tiles of ", plan.rounds, " stages"));
  if (plan.scratch_bytes > workspace.library_bytes)
    return absl::InvalidArgumentError(absl::StrCat("packed_batch: workspace of ",
                                                   workspace.library_bytes, " bytes, needs ",
                                                   plan.scratch_bytes));
  using packed_batch::Launch;
  const packed_batch::Params p = {args, plan, static_cast<float4*>(workspace.library),
                                  FlagSlotOf(workspace.library)};
  return VisitHalf(args.dtype, "packed_batch", [&]<typename T>(TypeTag<T>) {
    if (args.packed.bits == 4)
      return plan.tokens == 8 ? Launch<T, 4, 1>(p, stream) : Launch<T, 4, 2>(p, stream);
    return plan.tokens == 8 ? Launch<T, 8, 1>(p, stream) : Launch<T, 8, 2>(p, stream);
  });
}

}  // namespace tessera
