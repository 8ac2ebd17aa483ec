#include "kernels/gemm/packed_batch.h"

#include <cstdint>

#include "common/status_macros.h"
#include "kernels/device/barrier.cuh"
#include "kernels/device/flag.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/tensor_map.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/flag_slots.h"
#include "kernels/gemm/packed_gemm_unpack.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace {

using packed_gemv::kTileBytes;
using packed_gemv::kTileRows;
using packed_gemv::LaneIndex;
using packed_gemv::WarpIndex;

constexpr int kWarps = kPackedBatchWarps;
constexpr int kTilesOfStrip = 4;
constexpr int kPanel = 64;  // elements of a row of x that lie together in shared memory
constexpr int kPanelRowBytes = kPanel * 2;

// [block][strip]: its sums are there. 0 between launches.
__device__ uint32_t flags[kFlagSlots][kPackedBatchBlocks * kWarps];

struct BatchParams {
  LinearArgs args;
  PackedBatchPlan plan;
  float4* partial;  // [blocks][strips][2 pairs][eights of tokens][lanes]
  int flag_slot;
};

// What a block does: units [start, end), of which each is a stage of a tile. Blocks count down from
// the grid's last: sums wait for blocks of a lower blockIdx only, which start no later.
struct Run {
  __device__ __forceinline__ explicit Run(const PackedBatchPlan& plan)
      : block(static_cast<int>(gridDim.x - 1 - blockIdx.x)),
        start(Start(plan, block)),
        end(Start(plan, block + 1)) {}
  static __device__ __forceinline__ int Start(const PackedBatchPlan& plan, int block) {
    return static_cast<int>(static_cast<uint32_t>(plan.tiles * plan.rounds) *
                            static_cast<uint32_t>(block) / static_cast<uint32_t>(plan.blocks));
  }
  int block, start, end;
};

// Barriers of a stage: full, then free for the warps that have used it.
struct Ring {
  __device__ __forceinline__ Ring(const PackedBatchPlan& plan, uint32_t memory, uint32_t barriers)
      : memory_(memory), barriers_(barriers), bytes_(plan.stage_bytes), count_(plan.stages) {}
  __device__ __forceinline__ void Init() const {
    for (int s = 0; s < count_; ++s) {
      InitBarrier(barriers_ + s * 16, 1 + kWarp);
      InitBarrier(barriers_ + s * 16 + 8, kWarps);
    }
    FenceBarrierInit();
  }
  __device__ __forceinline__ uint32_t Stage() const { return memory_ + at_ * bytes_; }
  __device__ __forceinline__ uint32_t Full() const { return barriers_ + at_ * 16; }
  __device__ __forceinline__ uint32_t Free() const { return Full() + 8; }
  __device__ __forceinline__ uint32_t Parity() const { return parity_; }
  __device__ __forceinline__ void Next() {
    if (++at_ == count_) {
      at_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  const uint32_t memory_, barriers_;
  const int bytes_, count_;
  int at_ = 0;
  uint32_t parity_ = 0;
};

// The tiles of w of a tile of strips, in the order in which they lie in a stage: gated, those of
// gate and then those of up.
struct Tiles {
  __device__ __forceinline__ Tiles(const BatchParams& p, int tile)
      : half(p.plan.strips * 2),
        first(tile * (p.args.gated ? half : 2 * half)),
        second(p.args.gated ? static_cast<int>(p.args.n) / kTileRows + first : first + half) {}
  __device__ __forceinline__ int Of(int i) const {
    return i < half ? first + i : second + i - half;
  }
  int half, first, second;
};

template <int kBits>
class Loader {
 public:
  __device__ __forceinline__ Loader(const BatchParams& p, const Run& run, Ring& ring,
                                    const CUtensorMap& weights, const CUtensorMap& x)
      : p_(p), run_(run), ring_(ring), weights_(weights), x_(x) {}

  __device__ __forceinline__ void LoadAll() {
    const int rounds = p_.plan.rounds, early = min(run_.end - run_.start, p_.plan.stages);
    int tile = run_.start / rounds, round = run_.start - tile * rounds;
    const int first_round = round;
    const auto next = [&] {
      if (++round == rounds) {
        round = 0;
        ++tile;
      }
      ring_.Next();
    };
    for (int i = 0; i < early; ++i) {
      LoadWeights(tile, round);
      next();
    }
    WaitForPrevious();
    Ring ring = ring_;
    if (early < p_.plan.stages)
      for (int i = early; i < p_.plan.stages; ++i) ring.Next();
    for (int i = 0, r = first_round; i < early; ++i) {
      LoadX(ring, r);
      ring.Next();
      if (++r == rounds) r = 0;
    }
    for (int i = run_.start + early; i < run_.end; ++i) {
      WaitAt(ring_.Free(), ring_.Parity() ^ 1);
      LoadWeights(tile, round);
      LoadX(ring_, round);
      next();
    }
  }

 private:
  __device__ __forceinline__ void LoadX(const Ring& ring, int round) const {
    constexpr int kPanels = static_cast<int>(PackedBlock(kBits)) / kPanel;
    if (ElectOne())
      CopyBox(ring.Stage() + p_.plan.x_offset, x_, 0, 0, round * p_.plan.depth * kPanels,
              ring.Full(), EvictNormalPolicy());
    __syncwarp();
  }
  __device__ __forceinline__ void LoadWeights(int tile, int round) const {
    const PackedBatchPlan& plan = p_.plan;
    const PackedWeight& w = p_.args.packed;
    const uint32_t stage = ring_.Stage(), full = ring_.Full();
    const Tiles tiles(p_, tile);
    const int first_chunk = round * plan.depth;
    if (ElectOne()) {
      const uint64_t policy = EvictFirstPolicy();
      ArriveExpecting(full, plan.scale_offset);
      CopyBox(stage, weights_, 0, first_chunk, tiles.first, full, policy);
      if (p_.args.gated)
        CopyBox(stage + tiles.half * plan.depth * kTileBytes, weights_, 0, first_chunk,
                tiles.second, full, policy);
    }
    __syncwarp();
    const int last_tile = static_cast<int>(w.n) / kTileRows - 1;
#pragma unroll
    for (int piece = LaneIndex(); piece < kWarps * kTilesOfStrip; piece += kWarp) {
      const int i = piece / plan.depth, chunk = first_chunk + piece % plan.depth;
      int group = static_cast<int>(
          plan.chunks_a_group == 1 ? chunk : __umulhi(chunk, plan.group_magic));
      group = min(group, static_cast<int>(w.groups) - 1);
      const int64_t row = int64_t{min(tiles.Of(i), last_tile)} * kTileRows;
      CopyAsync16(stage + plan.scale_offset + piece * 16,
                  static_cast<const char*>(w.scales) + (group * w.n + row) * 2, true);
      if (w.zeros != nullptr) {
        const char* const from = static_cast<const char*>(w.zeros) +
                                 group * PackedZeroStride(kBits, w.n) + row * kBits / 8;
        CopyAsync4(stage + plan.zero_offset + piece * 8, from);
        if (kBits == 8) CopyAsync4(stage + plan.zero_offset + piece * 8 + 4, from + 4);
      }
    }
    ArriveAfterCopies(full);
  }

  const BatchParams& p_;
  const Run& run_;
  Ring& ring_;
  const CUtensorMap &weights_, &x_;
};

// A warp's sums of a strip: [pairs][tokens in eights], d of mma m16n8k16 each. Pair i is tiles i and
// 2 + i of the strip.
template <int kEights>
struct StripSums {
  float at[2][kEights][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) at[i / kEights][i % kEights][j] = 0.f;
  }
  // Piece i of 2 * kEights.
  __device__ __forceinline__ float4 Piece(int i) const {
    const float(&v)[4] = at[i / kEights][i % kEights];
    return make_float4(v[0], v[1], v[2], v[3]);
  }
  __device__ __forceinline__ void Add(int i, const float4& v) {
    float(&sum)[4] = at[i / kEights][i % kEights];
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
};

template <typename T, int kBits, bool kZeros, int kEights>
class Multiplier {
  static constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  static constexpr int kPanelSteps = kPanel / static_cast<int>(kPackedStep);
  static constexpr int kPanelBytes = kEights * 8 * kPanelRowBytes;
  static constexpr int kPieces = 2 * kEights;

 public:
  __device__ __forceinline__ Multiplier(const BatchParams& p, const Run& run, Ring& ring,
                                        uint32_t depth_sums)
      : p_(p),
        run_(run),
        ring_(ring),
        strip_(WarpIndex() % p.plan.strips),
        depth_(WarpIndex() / p.plan.strips),
        depth_sums_(depth_sums) {
    const int strips = p.plan.strips, depth = p.plan.depth;
    const int first = strip_ * (p.args.gated ? 2 : 4);
    const int second = p.args.gated ? 2 * strips + first : first + 2;
    low_ = first * depth + depth_;
    high_ = second * depth + depth_;
    // Lane l gives row l % 8 of matrix l / 8: rows of x in eights, k in eights.
    const int token = kEights == 2 ? LaneIndex() % 8 + LaneIndex() / 16 * 8 : LaneIndex() % 8;
    const int piece = kEights == 2 ? LaneIndex() / 8 % 2 : LaneIndex() / 8;
    x_ = token * kPanelRowBytes + ((piece ^ (token & 7)) << 4);
  }

  __device__ __forceinline__ void MultiplyAll() {
    const PackedBatchPlan& plan = p_.plan;
    for (int unit = run_.start; unit < run_.end;) {
      const int tile = unit / plan.rounds, first = unit - tile * plan.rounds;
      const int last = min(plan.rounds, first + run_.end - unit);
      sums_.Clear();
      for (int round = first; round < last; ++round) {
        WaitAt(ring_.Full(), ring_.Parity());
        if (round * plan.depth + depth_ < plan.chunks) AddChunk(ring_.Stage());
        __syncwarp();
        if (LaneIndex() == 0) ArriveAt(ring_.Free());
        ring_.Next();
      }
      Finish(tile, first, last);
      unit += last - first;
    }
  }

 private:
  __device__ __forceinline__ void AddChunk(uint32_t stage) {
    constexpr int kStepsOfWord = kSteps / 4;
    const int row = LaneIndex() / 4, next = p_.plan.depth;  // tiles are that many slots apart
    const uint32_t x = stage + p_.plan.x_offset + depth_ * (kSteps / kPanelSteps * kPanelBytes);
    const uint32_t scales = stage + p_.plan.scale_offset + row * 2;
    const uint32_t zeros = stage + p_.plan.zero_offset + row * kBits / 8;
    uint32_t words[kTilesOfStrip][4];
    float scale[kTilesOfStrip];
    RowUnpacker<T, kBits> unpack[2][2];
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int slot = (i < 2 ? low_ : high_) + i % 2 * next;
      const uint4 v = LoadShared16(stage + slot * kTileBytes + LaneIndex() * 16);
      words[i][0] = v.x, words[i][1] = v.y, words[i][2] = v.z, words[i][3] = v.w;
      scale[i] = __half2float(__ushort_as_half(LoadShared2(scales + slot * 16)));
      uint32_t zero = 1u << (kBits - 1);
      if (kZeros) {
        zero = LoadShared1(zeros + slot * 8);
        if (kBits == 4) zero = zero >> (row % 2 * 4) & 0xf;
      }
      unpack[i % 2][i / 2].Set(0, zero);
    }
    float d[2][kEights][4] = {};
    uint32_t b[4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (kEights == 2 || step % 2 == 0)
        LoadMatrices(x + step / kPanelSteps * kPanelBytes + (x_ ^ (step % kPanelSteps << 5)), b);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t a[4];
        Unpack(step, unpack[pair], words[pair][step / kStepsOfWord],
               words[2 + pair][step / kStepsOfWord], a);
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
          const int at = kEights == 2 ? i * 2 : step % 2 * 2;
          MultiplyAdd<T>(d[pair][i], a, b[at], b[at + 1]);
        }
      }
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair)
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums_.at[pair][eight][j] += scale[pair + j / 2 * 2] * d[pair][eight][j];
  }

  static __device__ __forceinline__ void Unpack(int step, const RowUnpacker<T, kBits> (&rows)[2],
                                                uint32_t low, uint32_t high, uint32_t (&a)[4]) {
    if (kBits == 4 && step % 2 == 1)
      UnpackStep<1, true>(rows, low, high, a);
    else
      UnpackStep<0, true>(rows, low, high, a);
  }

  // From the sums of rounds [first, last) of a tile to outputs, or partial sums.
  __device__ __forceinline__ void Finish(int tile, int first, int last) {
    const PackedBatchPlan& plan = p_.plan;
    if (plan.depth > 1 && !MeetDepths()) return;
    if (first > 0) {
      Give();
      return;
    }
    if (last < plan.rounds) {
      int end = run_.block + 1;
      while (end < plan.blocks && Run::Start(plan, end) < (tile + 1) * plan.rounds) ++end;
      Take(run_.block + 1, end);
    }
    if (p_.args.gated)
      StoreGated(tile);
    else
      StorePlain(tile);
  }

  // Adds the sums of a strip's warps in those of its first, in which it returns true.
  __device__ __forceinline__ bool MeetDepths() {
    constexpr int kThere = 1, kTaken = 2, kPieceBytes = kWarp * 16;
    const int strips = p_.plan.strips;
    if (depth_ > 0) {
      if (gave_) NamedWait<kWarps * kWarp>(kTaken);
      gave_ = true;
      const uint32_t at =
          depth_sums_ + ((depth_ - 1) * strips + strip_) * (kPieces * kPieceBytes) +
          LaneIndex() * 16;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const float4 v = sums_.Piece(i);
        StoreShared16(at + i * kPieceBytes,
                      make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z),
                                 __float_as_uint(v.w)));
      }
      NamedArrive<kWarps * kWarp>(kThere);
      return false;
    }
    NamedWait<kWarps * kWarp>(kThere);
    for (int depth = 1; depth < p_.plan.depth; ++depth) {
      const uint32_t at = depth_sums_ +
                          ((depth - 1) * strips + strip_) * (kPieces * kPieceBytes) +
                          LaneIndex() * 16;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const uint4 v = LoadShared16(at + i * kPieceBytes);
        sums_.Add(i, make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                                 __uint_as_float(v.w)));
      }
    }
    __syncwarp();
    NamedArrive<kWarps * kWarp>(kTaken);
    return true;
  }

  __device__ __forceinline__ float4* Partial(int block) const {
    return p_.partial + (int64_t{block} * p_.plan.strips + strip_) * (kPieces * kWarp) +
           LaneIndex();
  }
  __device__ __forceinline__ uint32_t* Flag(int block) const {
    return &flags[p_.flag_slot][block * kWarps + strip_];
  }
  __device__ __forceinline__ void Give() const {
    float4* const to = Partial(run_.block);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) __stcg(to + i * kWarp, sums_.Piece(i));
    __syncwarp();
    if (LaneIndex() == 0) StoreRelease(Flag(run_.block), 1);
  }
  __device__ __forceinline__ void Take(int first, int end) {
    for (int block = first + LaneIndex(); block < end; block += kWarp) {
      while (LoadAcquire(Flag(block)) == 0) {
      }
      *Flag(block) = 0;
    }
    __syncwarp();
    for (int block = first; block < end; ++block) {
      const float4* const from = Partial(block);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) sums_.Add(i, __ldcg(from + i * kWarp));
    }
  }

  // In a lane, sums come as a row of w by pairs of tokens; transposing 8x8 matrices gives it pairs
  // of outputs of one token.
  __device__ __forceinline__ void StoreGated(int tile) const {
    const int64_t out = (int64_t{tile} * p_.plan.strips + strip_) * 16;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const float(&v)[4] = sums_.at[i / kEights][i % kEights];
      StorePair(out + i / kEights * kTileRows, i % kEights, Silu(v[0]) * v[2], Silu(v[1]) * v[3]);
    }
  }
  __device__ __forceinline__ void StorePlain(int tile) const {
    const LinearArgs& a = p_.args;
    const int64_t out = (int64_t{tile} * p_.plan.strips + strip_) * 32;
    float add[kTilesOfStrip][kEights][2] = {};
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int64_t n = out + i * kTileRows;
      if (n >= a.n) continue;
      const int64_t row = n + LaneIndex() / 4, pair = n + LaneIndex() % 4 * 2;
      const float bias =
          a.bias == nullptr ? 0.f : static_cast<float>(static_cast<const T*>(a.bias)[row]);
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        const int token = eight * 8 + LaneIndex() / 4;
        uint32_t two = 0;
        if (a.residual != nullptr && token < static_cast<int>(a.t))
          two = *reinterpret_cast<const uint32_t*>(static_cast<const T*>(a.residual) +
                                                   token * a.n + pair);
        const float2 residual = UnpackHalves<T>(TransposeMatrix(two));
        add[i][eight][0] = bias + residual.x;
        add[i][eight][1] = bias + residual.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i)
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        const float* const v = sums_.at[i % 2][eight] + i / 2 * 2;
        StorePair(out + i * kTileRows, eight, v[0] + add[i][eight][0], v[1] + add[i][eight][1]);
      }
  }

  // Two sums of a lane, of output n + lane / 4 and tokens 8 * eight + lane % 4 * 2, + 1. Whole warp.
  __device__ __forceinline__ void StorePair(int64_t n, int eight, float v0, float v1) const {
    const LinearArgs& a = p_.args;
    if (n >= a.n) return;
    if (a.y_dtype == DType::kF32) {
      const int token = eight * 8 + LaneIndex() % 4 * 2;
      float* const y = static_cast<float*>(a.y) + token * a.n + n + LaneIndex() / 4;
      if (token < static_cast<int>(a.t)) y[0] = v0;
      if (token + 1 < static_cast<int>(a.t)) y[a.n] = v1;
      return;
    }
    const uint32_t two = TransposeMatrix(PackHalves<T>(v0, v1));
    const int token = eight * 8 + LaneIndex() / 4;
    if (token < static_cast<int>(a.t))
      *reinterpret_cast<uint32_t*>(static_cast<T*>(a.y) + token * a.n + n + LaneIndex() % 4 * 2) =
          two;
  }

  const BatchParams& p_;
  const Run& run_;
  Ring& ring_;
  const int strip_, depth_;
  const uint32_t depth_sums_;
  int low_, high_;  // slots in a stage of the strip's first tile and of its third
  uint32_t x_;      // of the lane's row and piece in a panel
  bool gave_ = false;
  StripSums<kEights> sums_;
};

template <typename T, int kBits, bool kZeros, int kEights>
__global__ void __launch_bounds__(kPackedBatchThreads, 1)
    BatchKernel(const __grid_constant__ BatchParams p, const __grid_constant__ CUtensorMap weights,
                const __grid_constant__ CUtensorMap x) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) char memory[];
  LetNextStart();
  const PackedBatchPlan& plan = p.plan;
  const uint32_t base = SharedAddress(memory);
  const uint32_t depth_sums = base + plan.stages * plan.stage_bytes;
  const uint32_t barriers =
      depth_sums + (kWarps - plan.strips) * (2 * kEights * kWarp * 16);
  Ring ring(plan, base, barriers);
  if (threadIdx.x == kWarps * kWarp) {
    PrefetchMap(weights);
    PrefetchMap(x);
    ring.Init();
  }
  __syncthreads();
  const Run run(plan);
  if (WarpIndex() == kWarps) {
    Loader<kBits>(p, run, ring, weights, x).LoadAll();
  } else {
    // Outputs and partial sums may be what kernels before still use.
    WaitForPrevious();
    Multiplier<T, kBits, kZeros, kEights>(p, run, ring, depth_sums).MultiplyAll();
  }
#endif
}

template <typename T, int kBits, int kEights>
absl::Status Launch(const BatchParams& p, cudaStream_t stream) {
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
                            {.type = a.dtype == DType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
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
  const auto kernel = a.packed.zeros != nullptr ? BatchKernel<T, kBits, true, kEights>
                                                : BatchKernel<T, kBits, false, kEights>;
  RETURN_IF_ERROR(PrepareShared("packed_batch", kernel, plan.shared_bytes));
  return LaunchDependent("packed_batch launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                          .block = dim3(kPackedBatchThreads),
                          .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                          .stream = stream},
                         p, weights, x);
}

}  // namespace

absl::Status LaunchPackedBatch(const LinearArgs& args, const PackedBatchPlan& plan,
                               const LinearWorkspace& workspace, cudaStream_t stream) {
  const BatchParams p = {args, plan, static_cast<float4*>(workspace.library),
                         FlagSlotOf(workspace.library)};
  return VisitHalf(args.dtype, "packed_batch", [&]<typename T>(TypeTag<T>) {
    if (args.packed.bits == 4)
      return plan.tokens == 8 ? Launch<T, 4, 1>(p, stream) : Launch<T, 4, 2>(p, stream);
    return plan.tokens == 8 ? Launch<T, 8, 1>(p, stream) : Launch<T, 8, 2>(p, stream);
  });
}

}  // namespace tessera
