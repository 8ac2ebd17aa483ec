// What becomes of a warpgroup's sums: outputs, or partial sums for another block (sm_90).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/flag.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemm_load.cuh"
#include "kernels/gemm/packed_gemm_walk.cuh"

namespace tessera {

// Partial sums of sharing blocks, as they lie in registers, and the flags that announce them: 0
// between launches. `thread` counts those that multiply.
template <typename Shape>
class PartialSums {
 public:
  __device__ __forceinline__ PartialSums(float* sums, uint32_t* flags, int thread)
      : sums_(sums), flags_(flags), thread_(thread) {}

  __device__ __forceinline__ void Give(int block, const float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums / 4; ++i)
      __stcg(At(block, i), make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]));
    GroupWait();
    if (thread_ % kWarpgroup == 0) StoreRelease(Flag(block), 1);
  }

  // Adds those of blocks [first, end) in their order, once all are there.
  __device__ __forceinline__ void Add(int first, int end, float (&d)[Shape::kSums]) const {
    if (thread_ % kWarpgroup < kWarp)
      TakeFlags(first + thread_ % kWarp, end, [&](int block) { return Flag(block); });
    GroupWait();
    for (int block = first; block < end; ++block) AddOne(block, d);
  }

 private:
  __device__ __forceinline__ void AddOne(int block, float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums / 4; ++i) {
      const float4 v = __ldcg(At(block, i));
      d[i * 4] += v.x;
      d[i * 4 + 1] += v.y;
      d[i * 4 + 2] += v.z;
      d[i * 4 + 3] += v.w;
    }
  }

  __device__ __forceinline__ void GroupWait() const {
    NamedWait<kWarpgroup>(1 + thread_ / kWarpgroup);
  }
  __device__ __forceinline__ float4* At(int block, int i) const {
    constexpr int64_t kTile = int64_t{Shape::kRows} * Shape::kTokens / 4;
    return reinterpret_cast<float4*>(sums_) + block * kTile + i * Shape::kConsumerThreads + thread_;
  }
  __device__ __forceinline__ uint32_t* Flag(int block) const {
    return flags_ + block * kMaxGroups + thread_ / kWarpgroup;
  }

  float* const sums_;
  uint32_t* const flags_;
  const int thread_;
};

// Where a warpgroup's chunks of outputs lie, and the parity of their barriers.
template <typename Shape>
class OutputPlace {
 public:
  explicit __device__ __forceinline__ OutputPlace(int group) : first_(group * Shape::kOutBuffers) {}

  // Of a chunk of the tile.
  __device__ __forceinline__ int Buffer(int chunk) const {
    return first_ + chunk % Shape::kOutBuffers;
  }
  __device__ __forceinline__ uint32_t Parity(int chunk) const {
    return (turns_ + chunk / Shape::kOutBuffers) & 1;
  }
  __device__ __forceinline__ void NextTile() { turns_ += Shape::kOutChunks / Shape::kOutBuffers; }

 private:
  const int first_;
  uint32_t turns_ = 0;
};

// Brings a warpgroup's outputs from shared memory to y, and the residuals that they add to from
// global memory to there, in chunks of tokens. One thread for each warpgroup, of the warp that
// fills no ring: what it waits for does not keep products waiting.
template <typename Shape>
class OutputMover {
 public:
  __device__ __forceinline__ OutputMover(const PackedGemmParams& p,
                                         const PackedShared<Shape>& shared, int group)
      : p_(p), shared_(shared), group_(group) {}

  __device__ __forceinline__ void MoveAll(const CUtensorMap& y, const CUtensorMap& residual) const {
    if (p_.f32) return;
    WaitForPrevious();
    OutputPlace<Shape> place(group_);
    PackedItem item;
    for (int turn = 0; PackedWalk::Item(p_, turn, item); ++turn) {
      if (item.first > 0) continue;
      const int output = (item.row_tile * Shape::kGroups + group_) * OutputsOfGroup(p_.gated);
      const int token = item.token_tile * Shape::kTokens;
      const auto prepare = [&](int chunk) {
        const int buffer = place.Buffer(chunk);
        const uint32_t ready = shared_.OutputsReady(buffer);
        if (p_.residual == nullptr) {
          ArriveAt(ready);
          return;
        }
        ArriveExpecting(ready, Shape::kOutBytes);
        CopyBox(shared_.Outputs(buffer), residual, output, token + chunk * Shape::kOutTokens,
                ready);
      };
      WaitForStoresToRead();
      for (int chunk = 0; chunk < Shape::kOutBuffers; ++chunk) prepare(chunk);
      for (int chunk = 0; chunk < Shape::kOutChunks; ++chunk) {
        const int buffer = place.Buffer(chunk);
        WaitAt(shared_.OutputsFilled(buffer), place.Parity(chunk));
        StoreBox(y, output, token + chunk * Shape::kOutTokens, shared_.Outputs(buffer));
        if (chunk + Shape::kOutBuffers < Shape::kOutChunks) {
          WaitForStoresToRead();
          prepare(chunk + Shape::kOutBuffers);
        }
      }
      place.NextTile();
    }
    WaitForStoresToRead();
  }

 private:
  const PackedGemmParams& p_;
  const PackedShared<Shape>& shared_;
  const int group_;
};

// From a warpgroup's finished sums to its outputs. A warp has 16 rows of W by kTokens tokens: in a
// lane, sums of row lane / 4 and of the eighth behind it, or of a gate row and its up row, for
// pairs of tokens. 16-bit outputs are transposed on their way to shared memory.
template <typename T, typename Shape>
class OutputTile {
 public:
  __device__ __forceinline__ OutputTile(const PackedGemmParams& p,
                                        const PackedShared<Shape>& shared, int thread)
      : p_(p),
        shared_(shared),
        lane_(thread % kWarp),
        warp_(thread / kWarp),
        place_(thread / kWarpgroup) {}

  __device__ __forceinline__ void Store(const PackedItem& item, float (&d)[Shape::kSums]) {
    const int64_t row =
        (int64_t{item.row_tile} * Shape::kConsumerWarps + warp_) * (p_.gated ? 8 : 16) + lane_ / 4;
    if (p_.gated)
      Gate(d);
    else if (p_.bias != nullptr)
      AddBias(row, d);
    if (p_.f32) {
      StoreWide(row, int64_t{item.token_tile} * Shape::kTokens + lane_ % 4 * 2, d);
      return;
    }
    if (p_.gated)
      StoreChunks<Gated>(d);
    else
      StoreChunks<Plain>(d);
    place_.NextTile();
  }

 private:
  static constexpr int kChunkEights = Shape::kOutTokens / 8;

  // Of outputs in shared memory: a row for each token, in pieces of 16 bytes that lie swizzled as
  // TMA has them. A warp writes kMatrices 8x8 matrices at a time, of kAtOnce eights of tokens.
  struct Plain {
    static constexpr bool kTakesResidual = true;
    static constexpr int kRowBytes = kPanelRowBytes, kAtOnce = 2, kMatrices = 4;
    static __device__ __forceinline__ uint32_t Lane(int warp, int lane) {
      const int token = lane / 16 * 8 + lane % 8, piece = warp * 2 + lane / 8 % 2;
      return PieceBytes(token, piece);
    }
    static __device__ __forceinline__ void Pack(const float* d, uint32_t (&out)[kMatrices]) {
#pragma unroll
      for (int i = 0; i < kMatrices; ++i) out[i] = PackHalves<T>(d[i * 2], d[i * 2 + 1]);
    }
  };
  struct Gated {
    static constexpr bool kTakesResidual = false;
    static constexpr int kRowBytes = OutputsOfGroup(true) * 2;
    static constexpr int kAtOnce = std::min(kChunkEights, 4), kMatrices = kAtOnce;
    static __device__ __forceinline__ uint32_t Lane(int warp, int lane) {
      return lane * kRowBytes + ((warp ^ (lane >> 1 & 3)) << 4);
    }
    static __device__ __forceinline__ void Pack(const float* d, uint32_t (&out)[kMatrices]) {
#pragma unroll
      for (int i = 0; i < kMatrices; ++i) out[i] = PackHalves<T>(d[i * 4], d[i * 4 + 1]);
    }
  };

  template <typename Layout>
  __device__ __forceinline__ void StoreChunks(float (&d)[Shape::kSums]) {
    const uint32_t on = Layout::Lane(warp_ % kGroupWarps, lane_);
#pragma unroll
    for (int chunk = 0; chunk < Shape::kOutChunks; ++chunk) {
      const int buffer = place_.Buffer(chunk);
      WaitAt(shared_.OutputsReady(buffer), place_.Parity(chunk));
#pragma unroll
      for (int i = 0; i < kChunkEights; i += Layout::kAtOnce) {
        const uint32_t at = shared_.Outputs(buffer) + on + i * 8 * Layout::kRowBytes;
        float* const sums = d + (chunk * kChunkEights + i) * 4;
        if constexpr (Layout::kTakesResidual) {
          if (p_.residual != nullptr) AddResidual(at, sums);
        }
        uint32_t packed[Layout::kMatrices];
        Layout::Pack(sums, packed);
        StoreMatricesTransposed(at, packed);
      }
      FenceForAsyncReaders();
      __syncwarp();
      if (lane_ == 0) ArriveAt(shared_.OutputsFilled(buffer));
    }
  }

  // Of two eights of tokens, plain.
  __device__ __forceinline__ void AddResidual(uint32_t at, float* sums) const {
    uint32_t residual[4];
    LoadMatricesTransposed(at, residual);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = UnpackHalves<T>(residual[i]);
      sums[i * 2] += pair.x;
      sums[i * 2 + 1] += pair.y;
    }
  }

  __device__ __forceinline__ void AddBias(int64_t row, float (&d)[Shape::kSums]) const {
    const auto* const bias = static_cast<const T*>(p_.bias);
    const float low = row < p_.n ? static_cast<float>(bias[row]) : 0.f;
    const float high = row + 8 < p_.n ? static_cast<float>(bias[row + 8]) : 0.f;
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) d[i] += i % 4 < 2 ? low : high;
  }

  // Gated outputs take the place of the gates.
  static __device__ __forceinline__ void Gate(float (&d)[Shape::kSums]) {
#pragma unroll
    for (int i = 0; i < Shape::kSums; i += 4) {
      d[i] = Silu(d[i]) * d[i + 2];
      d[i + 1] = Silu(d[i + 1]) * d[i + 3];
    }
  }

  // fp32 outputs, straight to memory.
  __device__ __forceinline__ void StoreWide(int64_t row, int64_t first,
                                            const float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) {
      const int64_t token = first + i / 4 * 8 + i % 2, output = row + i % 4 / 2 * 8;
      if ((p_.gated && i % 4 > 1) || token >= p_.t || output >= p_.n) continue;
      float v = d[i];
      if (p_.residual != nullptr)
        v += static_cast<float>(static_cast<const T*>(p_.residual)[token * p_.n + output]);
      static_cast<float*>(p_.y)[token * p_.n + output] = v;
    }
  }

  const PackedGemmParams& p_;
  const PackedShared<Shape>& shared_;
  const int lane_, warp_;
  OutputPlace<Shape> place_;
};

}  // namespace tessera
