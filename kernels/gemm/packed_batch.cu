#include "kernels/gemm/packed_batch.h"

#include <cstdint>
#include <type_traits>

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
// Of the warps that do not multiply: one loads values and x, one scales, the others sum x.
constexpr int kSumWarps = kPackedBatchHelpers - 2;
constexpr int kTilesOfStrip = 4;
constexpr int kPanel = kPackedBatchPanel;
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

// Stages, and their barriers: full; with sums of x; free for the warps that have used it.
class Ring {
 public:
  __device__ __forceinline__ Ring(const PackedBatchPlan& plan, uint32_t memory, uint32_t barriers)
      : first_(memory),
        first_full_(barriers),
        last_full_(barriers + (plan.stages - 1) * kBarriers),
        bytes_(plan.stage_bytes),
        stage_(memory),
        full_(barriers) {}
  __device__ __forceinline__ void Init() const {
    for (uint32_t full = first_full_; full <= last_full_; full += kBarriers) {
      InitBarrier(full, 1 + kWarp);  // of who loads values and x, and who loads scales
      InitBarrier(full + kToSummed, kSumWarps);
      InitBarrier(full + kToFree, kWarps);
    }
    FenceBarrierInit();
  }
  __device__ __forceinline__ uint32_t Stage() const { return stage_; }
  __device__ __forceinline__ uint32_t Full() const { return full_; }
  __device__ __forceinline__ void WaitFull() const { WaitAt(full_, parity_); }
  __device__ __forceinline__ void WaitSummed() const { WaitAt(full_ + kToSummed, parity_); }
  __device__ __forceinline__ void Summed() const { ArriveAt(full_ + kToSummed); }
  __device__ __forceinline__ void WaitFree() const { WaitAt(full_ + kToFree, parity_ ^ 1); }
  __device__ __forceinline__ void Free() const { ArriveAt(full_ + kToFree); }
  __device__ __forceinline__ void Next() {
    stage_ += bytes_;
    full_ += kBarriers;
    if (full_ > last_full_) {
      stage_ = first_;
      full_ = first_full_;
      parity_ ^= 1;
    }
  }

 private:
  static constexpr uint32_t kBarriers = kPackedBatchBarrierBytes, kToFree = 8, kToSummed = 16;

  const uint32_t first_, first_full_, last_full_, bytes_;
  uint32_t stage_, full_, parity_ = 0;
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

// Walks a run: of which tile and round the next unit is.
struct Units {
  __device__ __forceinline__ Units(const PackedBatchPlan& plan, const Run& run)
      : rounds(plan.rounds), tile(run.start / rounds), round(run.start - tile * rounds) {}
  __device__ __forceinline__ void Next() {
    if (++round == rounds) {
      round = 0;
      ++tile;
    }
  }
  int rounds, tile, round;
};

// One thread: values and x by TMA. Values do not depend on earlier kernels.
template <int kBits>
class ValueLoader {
 public:
  __device__ __forceinline__ ValueLoader(const BatchParams& p, const CUtensorMap& weights,
                                         const CUtensorMap& x)
      : p_(p), weights_(weights), x_(x) {}

  __device__ __forceinline__ void LoadAll(const Run& run, Ring ring) const {
    const int early = min(run.end - run.start, p_.plan.stages);
    Ring early_ring = ring;
    Units units(p_.plan, run), early_units = units;
    for (int i = 0; i < early; ++i, units.Next(), ring.Next()) LoadValues(units, ring);
    WaitForPrevious();
    for (int i = 0; i < early; ++i, early_units.Next(), early_ring.Next())
      LoadX(early_units, early_ring);
    for (int i = run.start + early; i < run.end; ++i, units.Next(), ring.Next()) {
      ring.WaitFree();
      LoadValues(units, ring);
      LoadX(units, ring);
    }
  }

 private:
  __device__ __forceinline__ void LoadValues(const Units& units, const Ring& ring) const {
    const Tiles tiles(p_, units.tile);
    const int chunk = units.round * p_.plan.depth;
    ArriveExpecting(ring.Full(), p_.plan.scale_offset);
    CopyBox(ring.Stage(), weights_, 0, chunk, tiles.first, ring.Full(), once_);
    if (p_.args.gated)
      CopyBox(ring.Stage() + p_.plan.x_offset / 2, weights_, 0, chunk, tiles.second, ring.Full(),
              once_);
  }
  __device__ __forceinline__ void LoadX(const Units& units, const Ring& ring) const {
    constexpr int kPanels = static_cast<int>(PackedBlock(kBits)) / kPanel;
    CopyBox(ring.Stage() + p_.plan.x_offset, x_, 0, 0, units.round * p_.plan.depth * kPanels,
            ring.Full(), again_);
  }

  const BatchParams& p_;
  const CUtensorMap &weights_, &x_;
  const uint64_t once_ = EvictFirstPolicy(), again_ = EvictNormalPolicy();
};

// One warp: scales and zeros, which do not depend on earlier kernels.
template <int kBits>
class ScaleLoader {
  static constexpr int kPieces = kWarps * kTilesOfStrip / kWarp;  // of a lane

 public:
  __device__ __forceinline__ ScaleLoader(const BatchParams& p) : p_(p) {}

  __device__ __forceinline__ void LoadAll(const Run& run, Ring ring) {
    Units units(p_.plan, run);
    for (int i = run.start; i < run.end; ++i, units.Next(), ring.Next()) {
      if (i == run.start || units.round == 0) StartTile(units.tile);
      if (i >= run.start + p_.plan.stages) ring.WaitFree();
      Load(units.round * p_.plan.depth, ring);
    }
  }

 private:
  __device__ __forceinline__ void StartTile(int tile) {
    const PackedWeight& w = p_.args.packed;
    const Tiles tiles(p_, tile);
    const int last = static_cast<int>(w.n) / kTileRows - 1;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int slot = (LaneIndex() + i * kWarp) / p_.plan.depth;
      const int64_t row = int64_t{min(tiles.Of(slot), last)} * kTileRows;
      scales_[i] = static_cast<const char*>(w.scales) + row * 2;
      zeros_[i] = static_cast<const char*>(w.zeros) + row * kBits / 8;
    }
  }
  __device__ __forceinline__ void Load(int first_chunk, const Ring& ring) const {
    const PackedBatchPlan& plan = p_.plan;
    const PackedWeight& w = p_.args.packed;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = LaneIndex() + i * kWarp;
      const auto chunk = static_cast<uint32_t>(first_chunk + piece % plan.depth);
      const uint32_t of = plan.chunks_a_group == 1 ? chunk : __umulhi(chunk, plan.group_magic);
      const auto group = static_cast<int64_t>(min(of, static_cast<uint32_t>(w.groups) - 1));
      CopyAsync16(ring.Stage() + plan.scale_offset + piece * 16, scales_[i] + group * w.n * 2,
                  true);
      if (w.zeros != nullptr) {
        const char* const from = zeros_[i] + group * PackedZeroStride(kBits, w.n);
        const uint32_t to = ring.Stage() + plan.zero_offset + piece * 8;
        CopyAsync4(to, from);
        if (kBits == 8) CopyAsync4(to + 4, from + 4);
      }
    }
    ArriveAfterCopies(ring.Full());
  }

  const BatchParams& p_;
  const char *scales_[kPieces], *zeros_[kPieces];
};

// How a warp reads a chunk of x in a stage, by 8x8 matrices: lane l gives row l % 8 of matrix l / 8.
// Matrices are rows of x in eights by k in eights: of a step of 16 k with 16 rows, of two with 8.
template <int kBits, int kEights>
class XChunk {
 public:
  static constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  static constexpr int kStepsALoad = 2 / kEights;

  __device__ __forceinline__ XChunk(const PackedBatchPlan& plan, int depth) {
    const int lane = LaneIndex();
    const int token = kEights == 2 ? lane % 8 + lane / 16 * 8 : lane % 8;
    const int piece = kEights == 2 ? lane / 8 % 2 : lane / 8;
    at_ = plan.x_offset + depth * kBytes + token * kPanelRowBytes + ((piece ^ (token & 7)) << 4);
  }
  // From step `step` on, which is a constant and a multiple of kStepsALoad.
  __device__ __forceinline__ void Load(uint32_t stage, int step, uint32_t (&b)[4]) const {
    LoadMatrices(
        stage + (at_ ^ (step % kPanelSteps << 5)) + step / kPanelSteps * kPanelBytes, b);
  }
  // Where eight i of a step's operand begins in what Load() gave.
  static __device__ __forceinline__ int At(int step, int i) {
    return kEights == 2 ? i * 2 : step % 2 * 2;
  }

 private:
  static constexpr int kPanelSteps = kPanel / static_cast<int>(kPackedStep);
  static constexpr int kPanelBytes = kEights * 8 * kPanelRowBytes;
  static constexpr int kBytes = kSteps / kPanelSteps * kPanelBytes;

  uint32_t at_;
};

// Warp `index` of kSumWarps sums x over every kSumWarps-th chunk of a stage: [chunks][tokens].
template <typename T, int kBits, int kEights, bool kZeros>
class TokenSums {
  using X = XChunk<kBits, kEights>;

 public:
  __device__ __forceinline__ TokenSums(const BatchParams& p) : p_(p) {}

  __device__ __forceinline__ void SumAll(const Run& run, Ring ring, int index) const {
    for (int i = run.start; i < run.end; ++i, ring.Next()) {
      ring.WaitFull();
      for (int depth = index; depth < p_.plan.depth; depth += kSumWarps) Sum(ring.Stage(), depth);
      __syncwarp();
      if (LaneIndex() == 0) ring.Summed();
    }
  }

 private:
  __device__ __forceinline__ void Sum(uint32_t stage, int depth) const {
    // With one zero for all, times what it takes from a product of 128 + q.
    constexpr float kTimes = kZeros ? -1.f : -(128.f + (1 << (kBits - 1)));
    constexpr uint32_t kOnes = 0x3f803f80u;
    const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
    const X x(p_.plan, depth);
    float d[kEights][4] = {};
    uint32_t b[4];
#pragma unroll
    for (int step = 0; step < X::kSteps; ++step) {
      if (step % X::kStepsALoad == 0) x.Load(stage, step, b);
#pragma unroll
      for (int i = 0; i < kEights; ++i)
        MultiplyAdd<T>(d[i], ones, b[X::At(step, i)], b[X::At(step, i) + 1]);
    }
    if (LaneIndex() >= 4) return;
#pragma unroll
    for (int i = 0; i < kEights; ++i)
      StoreShared8(stage + p_.plan.sum_offset + (depth * kEights + i) * 32 + LaneIndex() * 8,
                   d[i][0] * kTimes, d[i][1] * kTimes);
  }

  const BatchParams& p_;
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

//
// kFromSums (4 bits in bf16): zeros are not taken from every q; products are of 128 + q and start
// from what is too much, the sum of a token's x over a chunk times -(128 + zero).
template <typename T, int kBits, int kEights, bool kZeros, bool kFromSums>
class Multiplier {
  using X = XChunk<kBits, kEights>;
  static constexpr int kSteps = X::kSteps;
  static constexpr int kPieces = 2 * kEights;

 public:
  __device__ __forceinline__ Multiplier(const BatchParams& p, const Run& run, const Ring& ring,
                                        uint32_t depth_sums)
      : p_(p),
        run_(run),
        ring_(ring),
        strip_(WarpIndex() % p.plan.strips),
        depth_(WarpIndex() / p.plan.strips),
        depth_sums_(depth_sums),
        x_(p.plan, depth_) {
    const int strips = p.plan.strips, depth = p.plan.depth, lane = LaneIndex(), row = lane / 4;
    const int first = strip_ * (p.args.gated ? 2 : 4);
    const int third = p.args.gated ? 2 * strips + first : first + 2;
    const int slot = first * depth + depth_;
    to_third_ = (third - first) * depth;
    values_ = slot * kTileBytes + lane * 16;
    scales_ = p.plan.scale_offset + slot * 16 + row * 2;
    zeros_ = p.plan.zero_offset + slot * 8 + row * kBits / 8;
    token_sums_ = p.plan.sum_offset + depth_ * kEights * 32 + lane % 4 * 8;
  }

  __device__ __forceinline__ void MultiplyAll() {
    const PackedBatchPlan& plan = p_.plan;
    for (int unit = run_.start; unit < run_.end;) {
      const int tile = unit / plan.rounds, first = unit - tile * plan.rounds;
      const int last = min(plan.rounds, first + run_.end - unit);
      sums_.Clear();
      int chunks_left = plan.chunks - first * plan.depth - depth_;
      for (int round = first; round < last; ++round, chunks_left -= plan.depth) {
        if constexpr (kFromSums)
          ring_.WaitSummed();
        else
          ring_.WaitFull();
        if (chunks_left > 0) AddChunk(ring_.Stage());
        __syncwarp();
        if (LaneIndex() == 0) ring_.Free();
        ring_.Next();
      }
      Finish(tile, first, last);
      unit += last - first;
    }
  }

 private:
  __device__ __forceinline__ void AddChunk(uint32_t stage) {
    constexpr int kStepsOfWord = kSteps / 4;
    const int depth = p_.plan.depth;  // tiles are that many slots apart
    uint32_t words[kTilesOfStrip][4], zero[kTilesOfStrip];
    float scale[kTilesOfStrip];
    RowUnpacker<T, kBits> unpack[2][2];
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int on = (i < 2 ? 0 : to_third_) + i % 2 * depth;
      const uint4 v = LoadShared16(stage + values_ + on * kTileBytes);
      words[i][0] = v.x, words[i][1] = v.y, words[i][2] = v.z, words[i][3] = v.w;
      scale[i] = __half2float(__ushort_as_half(LoadShared2(stage + scales_ + on * 16)));
      zero[i] = 1u << (kBits - 1);
      if (kZeros) {
        zero[i] = LoadShared1(stage + zeros_ + on * 8);
        if (kBits == 4) zero[i] = zero[i] >> (LaneIndex() / 4 % 2 * 4) & 0xf;
      }
      unpack[i % 2][i / 2].Set(0, zero[i]);
    }
    float d[2][kEights][4];
    Start(stage, zero, d);
    uint32_t b[4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step % X::kStepsALoad == 0) x_.Load(stage, step, b);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t a[4];
        Unpack(step, unpack[pair], words[pair][step / kStepsOfWord],
               words[2 + pair][step / kStepsOfWord], a);
#pragma unroll
        for (int i = 0; i < kEights; ++i)
          MultiplyAdd<T>(d[pair][i], a, b[X::At(step, i)], b[X::At(step, i) + 1]);
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

  // What products of a chunk are added to.
  __device__ __forceinline__ void Start(uint32_t stage, const uint32_t (&zero)[kTilesOfStrip],
                                        float (&d)[2][kEights][4]) const {
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight) {
      float2 sums = {};
      if (kFromSums) sums = LoadShared8(stage + token_sums_ + eight * 32);
#pragma unroll
      for (int i = 0; i < kTilesOfStrip; ++i) {
        float* const of = d[i % 2][eight] + i / 2 * 2;
        // 128 + zero, as a bf16, is the upper half of a float.
        const float times = kFromSums && kZeros ? __uint_as_float(zero[i] << 16 | 0x43000000u) : 1.f;
        of[0] = sums.x * times;
        of[1] = sums.y * times;
      }
    }
  }
  static __device__ __forceinline__ void Unpack(int step, const RowUnpacker<T, kBits> (&rows)[2],
                                                uint32_t low, uint32_t high, uint32_t (&a)[4]) {
    constexpr Unpacked kWhat = kFromSums ? Unpacked::kRaised
                               : kZeros  ? Unpacked::kIntegers
                                         : Unpacked::kMiddleIntegers;
    if (kBits == 4 && step % 2 == 1)
      UnpackStep<1, kWhat>(rows, low, high, a);
    else
      UnpackStep<0, kWhat>(rows, low, high, a);
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
  Ring ring_;
  const int strip_, depth_;
  const uint32_t depth_sums_;
  const X x_;
  // From where a stage begins to what the lane reads: of the strip's first tile, and sums of x.
  uint32_t values_, scales_, zeros_, token_sums_;
  int to_third_;  // slots from the strip's first tile to its third
  bool gave_ = false;
  StripSums<kEights> sums_;
};

template <typename T, int kBits, int kEights, bool kZeros, bool kFromSums>
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
    // Outputs and partial sums may be what kernels before still use.
    WaitForPrevious();
    Multiplier<T, kBits, kEights, kZeros, kFromSums>(p, run, ring, depth_sums).MultiplyAll();
  } else if (warp == kWarps) {
    if (ElectOne()) ValueLoader<kBits>(p, weights, x).LoadAll(run, ring);
  } else if (warp == kWarps + 1) {
    ScaleLoader<kBits>(p).LoadAll(run, ring);
  } else if constexpr (kFromSums) {
    TokenSums<T, kBits, kEights, kZeros>(p).SumAll(run, ring, warp - kWarps - 2);
  }
#endif
}

template <typename T, int kBits, int kEights, bool kFromSums = false>
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
  const auto kernel = a.packed.zeros != nullptr ? BatchKernel<T, kBits, kEights, true, kFromSums>
                                                : BatchKernel<T, kBits, kEights, false, kFromSums>;
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
  if (plan.sums_x) return Launch<__nv_bfloat16, 4, 2, true>(p, stream);
  return VisitHalf(args.dtype, "packed_batch", [&]<typename T>(TypeTag<T>) {
    if (args.packed.bits == 4)
      return plan.tokens == 8 ? Launch<T, 4, 1>(p, stream) : Launch<T, 4, 2>(p, stream);
    return plan.tokens == 8 ? Launch<T, 8, 1>(p, stream) : Launch<T, 8, 2>(p, stream);
  });
}

}  // namespace tessera
