// How the packed few-row kernel (packed_gemv.h) cuts its work, and how stages of it come to
// shared memory.
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {
namespace packed_gemv {

constexpr int kTileRows = static_cast<int>(kPackedTileRows);
constexpr int kTileBytes = static_cast<int>(kPackedTileBytes);
constexpr int kTiles = kPackedGemvPairs;  // of a part of a strip

// 1.5 * 2^23 plus an integer below 2^22 is a float whose bits are kMagicBits plus the integer.
constexpr float kMagic = 12582912.f;
constexpr int kMagicBits = 0x4b400000;
constexpr float kDigitBase = 256.f;  // of x (packed_gemv_x.cuh)

struct Params {
  LinearArgs args;
  PackedGemvPlan plan;
};

// What a block computes: tiles of outputs [first, last).
struct BlockWork {
  __device__ explicit BlockWork(const PackedGemvPlan& plan) {
    const int block = static_cast<int>(blockIdx.x);
    first = block * plan.block_tiles + min(block, plan.larger_blocks);
    last = first + plan.block_tiles + (block < plan.larger_blocks ? 1 : 0);
  }
  int first, last;
};

__device__ __forceinline__ int LaneIndex() { return static_cast<int>(threadIdx.x) % kWarp; }
// The shuffle tells the compiler that a warp's lanes agree.
__device__ __forceinline__ int WarpIndex() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarp, 0);
}

// Rows of x.
template <PackedGemvForm kForm>
__device__ __forceinline__ int RowsOf(const Params& p) {
  return PackedGemvWide(kForm) ? static_cast<int>(p.args.t) : 1;
}

// A strip's tiles of part `part`: the first one of w, and how many.
struct PartTiles {
  __device__ __forceinline__ PartTiles(const LinearArgs& a, int first, int tiles, int part) {
    from = first + part * (a.gated ? static_cast<int>(a.n) / kTileRows : kTiles);
    count = a.gated ? tiles : min(tiles - part * kTiles, kTiles);
  }
  int from, count;  // the count may be below 0
};

// Copies of scales and zeros into stages, by all lanes of a warp. A lane has one tile of every
// strip and, of its rows of scales, every kLaneRows-th.
template <int kBits, PackedSegment kSegment>
class ScaleCopier {
  static constexpr int kZeroBytes = kTileRows * kBits / 8;
  static constexpr int kStripTiles = 2 * kTiles;
  static constexpr int kLaneRows = kWarp / kStripTiles;

 public:
  // `steps` is group_of_step.
  __device__ ScaleCopier(const Params& p, const uint16_t* steps)
      : p_(p), last_group_(static_cast<int>(p.args.packed.groups) - 1), steps_(steps) {}

  // The strip of tiles [first, first + tiles) is the next to be copied from.
  __device__ __forceinline__ void StartStrip(int first, int tiles) {
    const PackedWeight& w = p_.args.packed;
    const int part = LaneIndex() % kStripTiles / kTiles, tile = LaneIndex() % kTiles;
    const PartTiles of(p_.args, first, tiles, part);
    has_tile_ = tile < of.count;
    const int row_of_w = (of.from + tile) * kTileRows;
    scales_ = static_cast<const char*>(w.scales) + row_of_w * 2;
    zeros_ =
        w.zeros == nullptr ? nullptr : static_cast<const char*>(w.zeros) + row_of_w * kBits / 8;
  }

  // Starts to copy those of chunks [chunk, chunk + count), kMost at most, to places `place` and on
  // of the stage at `stage`.
  template <int kMost>
  __device__ __forceinline__ void Copy(uint32_t stage, int chunk, int place, int count) const {
    const int chunk_rows = kSegment == PackedSegment::kBlock ? 1 : p_.plan.chunk_rows;
    const int rows = has_tile_ ? min(count, p_.plan.chunks - chunk) * chunk_rows : 0;
    const int lane_row = LaneIndex() / kStripTiles;
    const int slot = (place * chunk_rows + lane_row) * kStripTiles + LaneIndex() % kStripTiles;
    uint32_t to = stage + p_.plan.scale_offset + slot * (kTileRows * 2);
    uint32_t zeros_to = stage + p_.plan.zero_offset + slot * kZeroBytes;
    const auto copy = [&](int row) {
      const int64_t group = Group(chunk, row);
      CopyAsync16(to, scales_ + group * (p_.args.packed.n * 2), true);
      if (zeros_ != nullptr) {
        const char* const from = zeros_ + group * PackedZeroStride(kBits, p_.args.packed.n);
        CopyAsync4(zeros_to, from);
        if (kBits == 8) CopyAsync4(zeros_to + 4, from + 4);
      }
      to += kLaneRows * kStripTiles * (kTileRows * 2);
      zeros_to += kLaneRows * kStripTiles * kZeroBytes;
    };
    if constexpr (kSegment == PackedSegment::kBlock) {
#pragma unroll
      for (int i = 0; i < (kMost + kLaneRows - 1) / kLaneRows; ++i)
        if (lane_row + i * kLaneRows < rows) copy(lane_row + i * kLaneRows);
    } else {
      for (int row = lane_row; row < rows; row += kLaneRows) copy(row);
    }
  }

 private:
  // Of row `row` of those from chunk `chunk` on.
  __device__ __forceinline__ int Group(int chunk, int row) const {
    int group;
    if constexpr (kSegment == PackedSegment::kBlock) {
      group = static_cast<int>(
          p_.plan.chunks_a_group == 1 ? chunk + row : __umulhi(chunk + row, p_.plan.group_magic));
    } else {
      group = chunk * p_.plan.chunk_rows + row;
      if (kSegment == PackedSegment::kStep)
        group = group < static_cast<int>(p_.args.k / kPackedStep) ? steps_[group] : 0;
    }
    return min(group, last_group_);  // what lies past k
  }

  const Params& p_;
  const int last_group_;
  const uint16_t* const steps_;
  bool has_tile_ = false;
  const char *scales_ = nullptr, *zeros_ = nullptr;  // of the strip's tile, group 0
};

#if __CUDA_ARCH__ >= 900
// A ring of stages that one warp fills. A stage's barriers: full, then free for the warps that have
// used it.
template <int kBits, PackedSegment kSegment, PackedGemvForm kForm>
class StageRing {
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kToFree = 8;  // bytes from a stage's full barrier

 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t barriers,
                       const uint16_t* steps)
      : p_(p),
        block_(block),
        ring_(ring),
        barriers_(barriers),
        steps_(steps),
        stage_(ring),
        full_(barriers) {}

  // Goes on where the ring of the product before ended: with the same stages.
  __device__ __forceinline__ void GoOnFrom(const StageRing& before) {
    stage_ = before.stage_;
    full_ = before.full_;
    parity_ = before.parity_;
    loaded_ = before.loaded_;
  }

  // By one thread, ahead of the block's first barrier.
  __device__ __forceinline__ void Init() const {
    for (int s = 0; s < p_.plan.stages; ++s) {
      const uint32_t full = barriers_ + kPackedStageBarriers * s;
      InitBarrier(full, 1 + kWarp);  // of the loading warp: of values, of scales and zeros
      InitBarrier(full + kToFree, kWarps);
    }
    InitBarrier(Ready(), 1);
    FenceBarrierInit();
  }

  // The loading warp.
  __device__ __forceinline__ void LoadAll() {
    const PackedGemvPlan& plan = p_.plan;
    ScaleCopier<kBits, kSegment> scales(p_, steps_);
    for (int strip = 0; strip < plan.strips; ++strip) {
      const int first = block_.first + strip * plan.strip_tiles;
      const int tiles = min(plan.strip_tiles, block_.last - first);
      scales.StartStrip(first, tiles);
      for (int round = 0; round < plan.rounds; ++round, ++loaded_) {
        if (loaded_ == plan.early_stages) WaitAt(Ready(), 0);
        if (loaded_ >= plan.stages) WaitAt(full_ + kToFree, parity_ ^ 1);
        if (ElectOne()) LoadValues(first, tiles, round * kWarps);
        __syncwarp();
        scales.template Copy<kWarps>(stage_, round * kWarps, 0, kWarps);
        ArriveAfterCopies(full_);
        Next();
      }
    }
  }

  // By one thread, when x is on its way: lets the loading warp go on past early_stages.
  __device__ __forceinline__ void AllowAll() const { ArriveAt(Ready()); }

  // A multiplying warp: waits for the next stage and names its place; then gives it back.
  __device__ __forceinline__ uint32_t Wait() const {
    WaitAt(full_, parity_);
    return stage_;
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();  // all lanes have read it
    if (LaneIndex() == 0) ArriveAt(full_ + kToFree);
    Next();
  }

 private:
  __device__ __forceinline__ uint32_t Ready() const {
    return barriers_ + kPackedStageBarriers * p_.plan.stages;
  }
  __device__ __forceinline__ void Next() {
    stage_ += p_.plan.stage_bytes;
    full_ += kPackedStageBarriers;
    if (full_ == Ready()) {
      stage_ = ring_;
      full_ = barriers_;
      parity_ ^= 1;
    }
  }

  // By one lane, all of whose numbers are the same in the others: so a copy needs few instructions.
  __device__ __forceinline__ void LoadValues(int first, int tiles, int chunk) const {
    const uint64_t policy = EvictFirstPolicy();
    const uint32_t to = stage_, full = full_;
    const uint32_t bytes = min(kWarps, p_.plan.chunks - chunk) * kTileBytes;  // of a tile
    ArriveExpecting(full, (p_.args.gated ? 2 : 1) * tiles * bytes);
    const int64_t tile_bytes = int64_t{p_.plan.chunks} * kTileBytes;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const PartTiles of(p_.args, first, tiles, part);
      const char* const from = static_cast<const char*>(p_.args.packed.values) +
                               of.from * tile_bytes + chunk * kTileBytes;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        if (tile < of.count)
          CopyBulk(to + (part * kTiles + tile) * (kWarps * kTileBytes), from + tile * tile_bytes,
                   bytes, full, policy);
    }
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_, barriers_;
  const uint16_t* const steps_;
  uint32_t stage_, full_;  // the next stage and its barrier
  uint32_t parity_ = 0;
  int loaded_ = 0;  // stages, by the loading warp
};
#else
// A ring of stages in which each multiplying warp fills its own part by asynchronous copies.
template <int kBits, PackedSegment kSegment, PackedGemvForm kForm>
class StageRing {
  static constexpr int kWarps = kPackedGemvWarps;

 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t,
                       const uint16_t* steps)
      : p_(p), block_(block), ring_(ring), steps_(steps) {}

  __device__ __forceinline__ void GoOnFrom(const StageRing&) {}
  __device__ __forceinline__ void Init() const {}
  __device__ __forceinline__ void LoadAll() const {}
  __device__ __forceinline__ void AllowAll() const {}

  __device__ __forceinline__ uint32_t Wait() {
    if (next_ == 0)
      for (int i = 0; i < p_.plan.stages; ++i) Load(i);
    if (p_.plan.stages >= 3) {
      WaitForCopies<2>();
    } else {
      WaitForCopies<0>();
    }
    __syncwarp();
    return Stage(next_);
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();  // all lanes have read it
    Load(next_ + p_.plan.stages);
    ++next_;
  }

 private:
  __device__ __forceinline__ uint32_t Stage(int i) const {
    return ring_ + i % p_.plan.stages * p_.plan.stage_bytes;
  }
  __device__ __forceinline__ void Load(int i) const {
    if (i < p_.plan.strips * p_.plan.rounds) Copy(i);
    CommitCopies();
  }
  __device__ __forceinline__ void Copy(int i) const {
    const PackedGemvPlan& plan = p_.plan;
    const int strip = i / plan.rounds, round = i - strip * plan.rounds;
    const int first = block_.first + strip * plan.strip_tiles;
    const int tiles = min(plan.strip_tiles, block_.last - first);
    const int warp = WarpIndex(), chunk = round * kWarps + warp;
    if (chunk >= plan.chunks) return;
    const int64_t tile_bytes = int64_t{plan.chunks} * kTileBytes;
    const uint32_t to = Stage(i);
    for (int part = 0; part < 2; ++part) {
      const PartTiles of(p_.args, first, tiles, part);
      const char* from = static_cast<const char*>(p_.args.packed.values) + of.from * tile_bytes +
                         int64_t{chunk} * kTileBytes + LaneIndex() * 16;
      const uint32_t weights = to + (part * kTiles * kWarps + warp) * kTileBytes + LaneIndex() * 16;
      for (int j = 0; j < of.count; ++j)
        CopyAsync16(weights + j * kWarps * kTileBytes, from + j * tile_bytes, EvictFirstPolicy());
    }
    ScaleCopier<kBits, kSegment> scales(p_, steps_);
    scales.StartStrip(first, tiles);
    scales.template Copy<1>(to, chunk, warp, 1);
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_;
  const uint16_t* const steps_;
  int next_ = 0;
};
#endif

}  // namespace packed_gemv
}  // namespace tessera
