#include <array>
#include <cstdint>
#include <utility>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/gemv.h"

namespace tessera {
namespace {

constexpr int kThreads = kGemvWarps * kWarp;
constexpr int kTileRows = 8;
constexpr int kPieceK = 32;       // k of one 16-byte load a lane: 4 lanes a row, 8 values each
constexpr int kPieceBytes = 512;  // 16 bytes a lane
constexpr int kXPieceBytes = 64;  // of one row of x
constexpr int kLaneValues = 8;

struct GemvParams {
  LinearArgs args;
  GemvPlan plan;
};

__device__ __forceinline__ float Silu(float v) { return v / (1.f + __expf(-v)); }

// A range of outputs.
struct Outputs {
  int64_t first, last;
};

__device__ __forceinline__ Outputs BlockOutputs(const GemvPlan& plan) {
  const int64_t b = blockIdx.x, extra = plan.larger_blocks;
  const int64_t first = b * plan.block_outputs + (b < extra ? b : extra);
  return {first, first + plan.block_outputs + (b < extra ? 1 : 0)};
}

__device__ __forceinline__ Outputs PassOutputs(const GemvPlan& plan, Outputs block, int64_t pass) {
  const int64_t first = min(block.first + pass * plan.pass_outputs, block.last);
  return {first, min(first + plan.pass_outputs, block.last)};
}

// A warp's place in the block's chunks of k, dealt to warps round robin through all passes.
struct Cursor {
  int64_t pass = 0, chunk = 0;
};

// Copies a warp's stages: a lane copies the 16-byte pieces that it will itself feed to the tensor
// cores (row lane / 4 of each tile, k from 8 * (lane % 4) of each piece), so that no barrier stands
// between copy and use.
template <typename T, int kTileIndex, bool kResident, bool kWide>
class StageLoader {
  static constexpr GemvTile kTile = kGemvTiles[kTileIndex];

 public:
  __device__ StageLoader(const GemvParams& p, Outputs block, int64_t chunks, uint32_t ring,
                         int64_t stage_bytes)
      : a_(p.args),
        plan_(p.plan),
        block_(block),
        chunks_(chunks),
        ring_(ring),
        stage_bytes_(static_cast<uint32_t>(stage_bytes)),
        policy_(EvictFirstPolicy()) {
    at_.chunk = threadIdx.x / kWarp;
    SkipFinishedPasses();
    SetRows();
  }

  // Copies the next stage into `slot`; nothing at the end of the work. Closes one group.
  template <bool kWithX>
  __device__ __forceinline__ void Load(int slot) {
    if (at_.pass < plan_.passes) {
      const uint32_t base = ring_ + slot * stage_bytes_ + lane_ * 16;
      const int64_t k0 = at_.chunk * (kTile.k_pieces * kPieceK) + (lane_ % 4) * kLaneValues;
#pragma unroll
      for (int q = 0; q < kTile.tiles; ++q)
#pragma unroll
        for (int h = 0; h < kTile.k_pieces; ++h) {
          const bool valid = (rows_valid_ >> q & 1) && k0 + h * kPieceK < a_.k;
          CopyAsync16(base + (q * kTile.k_pieces + h) * kPieceBytes,
                      valid ? rows_[q] + k0 + h * kPieceK : rows_[0], valid, policy_);
        }
      if (kWithX && !kResident) LoadX(slot, at_.chunk);
      Advance();
    }
    CommitCopies();
  }

  // The piece of x that belongs to a chunk of k.
  __device__ __forceinline__ void LoadX(int slot, int64_t chunk) const {
    const int g = lane_ / 4;
    const int64_t k0 = chunk * (kTile.k_pieces * kPieceK) + (lane_ % 4) * kLaneValues;
    const uint32_t base =
        ring_ + slot * stage_bytes_ + kTile.tiles * kTile.k_pieces * kPieceBytes + lane_ * 16;
    const int t = static_cast<int>(a_.t);
    const T* x = static_cast<const T*>(a_.x);
#pragma unroll
    for (int h = 0; h < kTile.k_pieces; ++h) {
      const int64_t k = k0 + h * kPieceK;
      const bool valid = k < a_.k;
      if (g < t) CopyAsync16(base + h * t * kXPieceBytes, valid ? x + g * a_.k + k : x, valid);
      if (kWide && g + 8 < t)
        CopyAsync16(base + (h * t + 8) * kXPieceBytes, valid ? x + (g + 8) * a_.k + k : x, valid);
    }
  }

  // Asks L2 for about `bytes` of the block's weights that follow those in its warps' rings.
  __device__ __forceinline__ void PrefetchPastRing(int bytes) const {
    constexpr int kRows = kTile.tiles * kTileRows, kRowAlign = 128;
    const int row = static_cast<int>(threadIdx.x);
    if (row >= kRows || bytes <= 0) return;
    Cursor at = {0, int64_t{kGemvWarps} * kTile.stages};
    while (at.chunk >= chunks_) at.chunk -= chunks_, ++at.pass;
    const int64_t row_bytes = a_.k * int64_t{sizeof(T)};
    int64_t from = at.chunk * (kTile.k_pieces * kXPieceBytes);
    for (; at.pass < plan_.passes && bytes > 0; ++at.pass, from = 0) {
      const Outputs out = PassOutputs(plan_, block_, at.pass);
      const int rows = static_cast<int>(out.last - out.first) * (a_.gated ? 2 : 1);
      if (rows == 0) return;
      const int64_t share = (bytes / rows + kRowAlign - 1) / kRowAlign * kRowAlign;
      const int64_t count = min(share, row_bytes - from);
      const bool up = a_.gated && row >= kRows / 2;
      const int64_t n = out.first + (up ? row - kRows / 2 : row);
      if (n < out.last)
        PrefetchL2(static_cast<const char*>(a_.w) + (up ? n + a_.n : n) * row_bytes + from,
                   static_cast<uint32_t>(count));
      bytes -= static_cast<int>(count) * rows;
    }
  }

  // Where the warp's first stages lie, for loading x after the weights.
  __device__ __forceinline__ void LoadXOfFirstStages() const {
    Cursor at = {0, threadIdx.x / kWarp};
    for (int slot = 0; slot < kTile.stages; ++slot) {
      while (at.pass < plan_.passes && at.chunk >= chunks_) at.chunk -= chunks_, ++at.pass;
      if (at.pass >= plan_.passes) break;
      LoadX(slot, at.chunk);
      at.chunk += kGemvWarps;
    }
  }

 private:
  __device__ __forceinline__ void SkipFinishedPasses() {
    while (at_.pass < plan_.passes && at_.chunk >= chunks_) at_.chunk -= chunks_, ++at_.pass;
  }
  __device__ __forceinline__ void Advance() {
    const int64_t pass = at_.pass;
    at_.chunk += kGemvWarps;
    SkipFinishedPasses();
    if (at_.pass != pass) SetRows();
  }
  __device__ __forceinline__ void SetRows() {
    if (at_.pass >= plan_.passes) return;
    constexpr int kHalf = kTile.tiles / 2;  // tiles of gate rows, then as many of up rows
    const Outputs out = PassOutputs(plan_, block_, at_.pass);
    const T* w = static_cast<const T*>(a_.w);
    rows_valid_ = 0;
#pragma unroll
    for (int q = 0; q < kTile.tiles; ++q) {
      const bool up = a_.gated && q >= kHalf;
      const int64_t n = out.first + (up ? q - kHalf : q) * kTileRows + lane_ / 4;
      const bool valid = n < out.last;
      rows_valid_ |= valid << q;
      rows_[q] = w + (valid ? n + (up ? a_.n : 0) : 0) * a_.k;
    }
  }

  const LinearArgs& a_;
  const GemvPlan& plan_;
  const Outputs block_;
  const int64_t chunks_;
  const uint32_t ring_, stage_bytes_;
  const uint64_t policy_;
  const int lane_ = threadIdx.x % kWarp;
  Cursor at_;
  const T* rows_[kTile.tiles];
  unsigned rows_valid_ = 0;
};

template <typename T>
__device__ __forceinline__ float Rounded(float v) {
  return static_cast<float>(FromFloat<T>(v));
}
// How a block's threads share the rows of x to normalise: whole warps a row, as many as there are.
struct NormShare {
  __device__ explicit NormShare(int t) {
    const int warps_a_row = t == 1 ? 8 : t == 2 ? 4 : t <= 4 ? 2 : 1;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    rows = kGemvWarps / warps_a_row;
    row = warp / warps_a_row;
    part = warp % warps_a_row;
    parts = warps_a_row;
    piece = part * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    step = warps_a_row * kWarp;
  }
  int rows, row;    // rows at a time, and this thread's
  int parts, part;  // warps of a row, and this thread's
  int piece, step;  // a thread's first 16-byte piece of a row, and the way to its next
};

// A thread's first pieces of a row: loads in flight together.
struct NormPieces {
  static constexpr int kCount = 4;
  __device__ __forceinline__ void Load(const void* from, int first, int step, int end) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      at[i] = first + i * step < end ? static_cast<const uint4*>(from)[first + i * step]
                                     : make_uint4(0, 0, 0, 0);
  }
  uint4 at[kCount];
};

template <typename T>
__device__ __forceinline__ float SumOfSquares(uint4 v, float sum) {
  for (const uint32_t bits : {v.x, v.y, v.z, v.w}) {
    const float2 f = UnpackHalves<T>(bits);
    sum += f.x * f.x + f.y * f.y;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ uint4 Scaled(uint4 v, float scale, uint4 weight) {
  uint32_t from[4] = {v.x, v.y, v.z, v.w}, by[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 f = UnpackHalves<T>(from[j]), m = UnpackHalves<T>(by[j]);
    from[j] = PackHalves<T>(Rounded<T>(f.x * scale) * m.x, Rounded<T>(f.y * scale) * m.y);
  }
  return make_uint4(from[0], from[1], from[2], from[3]);
}

// Brings x's rows to shared memory, normalised, with zeros past k. `weight` holds this thread's
// first pieces of the norm's weight; `scratch` a float a warp and row. Ends with a barrier.
template <typename T>
__device__ __forceinline__ void NormaliseX(const GemvParams& p, const NormShare& share,
                                           const NormPieces& weight, char* xs, float* scratch) {
  const LinearArgs& a = p.args;
  const int pieces = static_cast<int>(a.k / kLaneValues);
  const int padded = static_cast<int>(p.plan.x_stride / 16);
  const int t = static_cast<int>(a.t), batch = NormPieces::kCount * share.step;
  for (int row = share.row; row < t; row += share.rows) {
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    float squares = 0;
    for (int first = share.piece; first < padded; first += batch) {
      NormPieces x;
      x.Load(static_cast<const T*>(a.x) + row * a.k, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i) {
        squares = SumOfSquares<T>(x.at[i], squares);
        if (first + i * share.step < padded) out[first + i * share.step] = x.at[i];
      }
    }
    squares = WarpReduce<SumOp>(squares);
    if (threadIdx.x % kWarp == 0) scratch[row * kGemvWarps + share.part] = squares;
  }
  __syncthreads();
  for (int row = share.row; row < t; row += share.rows) {
    float squares = 0;
    for (int i = 0; i < share.parts; ++i) squares += scratch[row * kGemvWarps + i];
    const float scale = rsqrtf(squares / static_cast<float>(a.k) + a.norm_eps);
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    for (int first = share.piece; first < pieces; first += batch) {
      NormPieces by = weight;
      if (first != share.piece) by.Load(a.norm_weight, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i)
        if (first + i * share.step < pieces)
          out[first + i * share.step] = Scaled<T>(out[first + i * share.step], scale, by.at[i]);
    }
  }
  __syncthreads();
}

// What one thread adds to a sum: bias and residual of output n of row `row`.
template <typename T>
__device__ __forceinline__ float Addend(const LinearArgs& a, int row, int64_t n) {
  float sum = 0;
  if (a.bias != nullptr) sum += static_cast<float>(static_cast<const T*>(a.bias)[n]);
  if (a.residual != nullptr)
    sum += static_cast<float>(static_cast<const T*>(a.residual)[row * a.n + n]);
  return sum;
}

// Outputs of a group of passes as work items, dealt to the block's threads from `thread` on.
struct Items {
  Outputs out;
  int thread, count;

  __device__ Items(Outputs group, int t, int64_t rotation)
      : out(group),
        thread(static_cast<int>((threadIdx.x + rotation * kWarp) % kThreads)),
        count(static_cast<int>(group.last - group.first) * t) {}
  __device__ __forceinline__ int row(int item) const { return item < width() ? 0 : item / width(); }
  __device__ __forceinline__ int column(int item) const {
    return item < width() ? item : item % width();
  }
  __device__ __forceinline__ int width() const { return static_cast<int>(out.last - out.first); }
};

// Adds the warps' partial sums in warp order and writes the outputs; a gated output's up sum lies
// `up_floats` past its gate sum. `addend` belongs to the thread's first item.
template <typename T>
__device__ __forceinline__ void WriteOutputs(const LinearArgs& a, const Items& items,
                                             const float* partials, int row_floats, int up_floats,
                                             float addend) {
  const int t = static_cast<int>(a.t);
  for (int i = items.thread; i < items.count; i += kThreads) {
    const int row = items.row(i), column = items.column(i);
    float sum = 0, up = 0;
#pragma unroll
    for (int w = 0; w < kGemvWarps; ++w) {
      const float* at = partials + (w * t + row) * row_floats + column;
      sum += at[0];
      if (a.gated) up += at[up_floats];
    }
    if (a.gated) sum = Silu(sum) * up;
    const int64_t n = items.out.first + column;
    sum += i == items.thread ? addend : Addend<T>(a, row, n);
    if (a.y_dtype == DType::kF32) {
      static_cast<float*>(a.y)[row * a.n + n] = sum;
    } else {
      static_cast<T*>(a.y)[row * a.n + n] = FromFloat<T>(sum);
    }
  }
}

// A block owns a contiguous range of outputs and computes it in passes of up to 8 * tiles rows of
// w; in each, its warps share k, dealt in chunks of 32 * k_pieces. Every warp streams its chunks
// through a ring of its own, filled ahead across passes, and multiplies them on the tensor cores
// with w as the [k, 8] operand and x as the [16, k] one. Partial sums of a group of passes meet in
// shared memory, two buffers in turn, one barrier a group.
// Grid PlanGemv().blocks, block kThreads. Shared memory: rings, partial sums, resident x.
template <typename T, int kTileIndex, bool kResident, bool kWide>
__global__ void __launch_bounds__(kThreads, 2) GemvKernel(const GemvParams p) {
  extern __shared__ __align__(128) char shared[];
  constexpr GemvTile kTile = kGemvTiles[kTileIndex];
  constexpr int kTiles = kTile.tiles, kPieces = kTile.k_pieces;
  constexpr int kWeightBytes = kTiles * kPieces * kPieceBytes;
  constexpr int kChains = kTiles == 1 ? 4 : kTiles == 2 ? 2 : 1;  // independent sums an output
  const LinearArgs& a = p.args;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, q4 = lane % 4, t = static_cast<int>(a.t);
  const int stage_bytes = kWeightBytes + (kResident ? 0 : kPieces * t * kXPieceBytes);
  const int64_t chunks = (a.k + kPieces * kPieceK - 1) / (kPieces * kPieceK);
  const Outputs block = BlockOutputs(p.plan);
  auto* partials = reinterpret_cast<float*>(shared + kGemvWarps * kTile.stages * stage_bytes);
  const int row_floats = p.plan.row_floats, up_floats = (row_floats - kTileRows) / 2;
  const int partial_floats = kGemvWarps * t * row_floats;
  char* xs = reinterpret_cast<char*>(partials + 2 * partial_floats);
  const uint32_t ring = SharedAddress(shared) + warp * kTile.stages * stage_bytes;

  LetNextStart();
  StageLoader<T, kTileIndex, kResident, kWide> loader(p, block, chunks, ring, stage_bytes);
#pragma unroll 1
  for (int s = 0; s < kTile.stages; ++s) loader.template Load<false>(s);
  loader.PrefetchPastRing(static_cast<int>(p.plan.prefetch_bytes));
  if (kResident) {
    const NormShare share(t);
    NormPieces weight;
    weight.Load(a.norm_weight, share.piece, share.step, static_cast<int>(a.k / kLaneValues));
    WaitForPrevious();
    NormaliseX<T>(p, share, weight, xs, partials);
  } else {
    WaitForPrevious();
    loader.LoadXOfFirstStages();
    CommitCopies();
  }

  int slot = 0;
  int64_t chunk = warp;
  bool first = !kResident;
  for (int64_t pass = 0, group = 0; pass < p.plan.passes; ++group) {
    const int64_t group_end =
        pass + p.plan.group < p.plan.passes ? pass + p.plan.group : p.plan.passes;
    const Items items(
        {PassOutputs(p.plan, block, pass).first, PassOutputs(p.plan, block, group_end - 1).last}, t,
        group);
    float addend = 0;
    if (items.thread < items.count)
      addend = Addend<T>(a, items.row(items.thread), items.out.first + items.column(items.thread));
    if (first) WaitForCopies<0>();  // x of the first stages is in the last group
    first = false;
    float* buffer = partials + (group & 1) * partial_floats;
    for (; pass < group_end; ++pass) {
      float acc[kChains][kTiles][4] = {};
      for (; chunk < chunks; chunk += kGemvWarps) {
        WaitForCopies<kTile.stages - 1>();
        const uint32_t base = ring + slot * stage_bytes;
        uint4 w[kPieces][kTiles], low[kPieces], high[kPieces];
#pragma unroll
        for (int h = 0; h < kPieces; ++h) {
          const uint32_t x_at =
              kResident ? SharedAddress(xs) + g * static_cast<int>(p.plan.x_stride) +
                              (static_cast<int>(chunk) * kPieces + h) * kXPieceBytes + q4 * 16
                        : base + kWeightBytes + h * t * kXPieceBytes + lane * 16;
          const int eight_rows =
              kResident ? 8 * static_cast<int>(p.plan.x_stride) : 8 * kXPieceBytes;
          low[h] = high[h] = make_uint4(0, 0, 0, 0);
          if (g < t) low[h] = LoadShared16(x_at);
          if (kWide && g + 8 < t) high[h] = LoadShared16(x_at + eight_rows);
#pragma unroll
          for (int q = 0; q < kTiles; ++q)
            w[h][q] = LoadShared16(base + (q * kPieces + h) * kPieceBytes + lane * 16);
        }
#pragma unroll
        for (int h = 0; h < kPieces; ++h)
#pragma unroll
          for (int q = 0; q < kTiles; ++q) {
            MultiplyAdd<T>(acc[2 * h % kChains][q], {low[h].x, high[h].x, low[h].y, high[h].y},
                           w[h][q].x, w[h][q].y);
            MultiplyAdd<T>(acc[(2 * h + 1) % kChains][q],
                           {low[h].z, high[h].z, low[h].w, high[h].w}, w[h][q].z, w[h][q].w);
          }
        loader.template Load<true>(slot);
        slot = slot + 1 == kTile.stages ? 0 : slot + 1;
      }
      chunk -= chunks;

      const Outputs out = PassOutputs(p.plan, block, pass);
      const int count = static_cast<int>(out.last - out.first);
      float* mine = buffer + warp * t * row_floats + (out.first - items.out.first);
#pragma unroll
      for (int q = 0; q < kTiles; ++q) {
        const bool up = a.gated && q >= kTiles / 2;
        const int column = (up ? q - kTiles / 2 : q) * kTileRows + 2 * q4;
#pragma unroll
        for (int i = 0; i < (kWide ? 4 : 2); ++i) {
          float sum = acc[0][q][i];
#pragma unroll
          for (int c = 1; c < kChains; ++c) sum += acc[c][q][i];
          const int row = g + i / 2 * 8;
          if (row < t && column + i % 2 < count)
            mine[row * row_floats + (up ? up_floats : 0) + column + i % 2] = sum;
        }
      }
    }
    __syncthreads();
    WriteOutputs<T>(a, items, buffer, row_floats, up_floats, addend);
  }
}

using KernelFn = void (*)(GemvParams);

// Kernels by [tile][resident][wide].
template <typename T, size_t... kIndex>
constexpr auto KernelTable(std::index_sequence<kIndex...>) {
  return std::array<KernelFn, sizeof...(kIndex)>{
      GemvKernel<T, int{kIndex / 4}, (kIndex / 2) % 2 != 0, kIndex % 2 != 0>...};
}

}  // namespace

absl::Status LaunchGemv(const LinearArgs& a, int sm_count, cudaStream_t stream) {
  const GemvPlan plan = PlanGemv(sm_count, a.t, a.n, a.k, a.gated, a.norm_weight != nullptr);
  return VisitHalf(a.dtype, "linear", [&]<typename T>(TypeTag<T>) -> absl::Status {
    static constexpr auto kKernels = KernelTable<T>(std::make_index_sequence<kGemvTileCount * 4>());
    const auto index = static_cast<size_t>(plan.tile * 4 + (plan.x_resident ? 2 : 0) + (a.t > 8));
    const KernelFn kernel = kKernels[index];
    RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(plan.shared_bytes)),
                         "linear: shared memory");
    // Without it CUDA sizes the shared memory for one block, and the next kernel's wait outside.
    RETURN_IF_CUDA_ERROR(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "linear: shared memory carve-out");
    return LaunchDependent("linear launch", kernel,
                           {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                            .block = dim3(kThreads),
                            .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                            .stream = stream},
                           GemvParams{a, plan});
  });
}

}  // namespace tessera
