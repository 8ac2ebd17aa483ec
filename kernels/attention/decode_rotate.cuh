// The new tokens of decode rows: their raw q, k and v become rotated query fragments, a row of the
// last tile of shared memory, and a token of the cache.
#pragma once

#include <cstdint>

#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/rope/rotate_head.cuh"

namespace tessera {

// In shared memory: what rotation needs beside the heads, and the rotated query rows.
template <int kE, int kTiles>
struct RotationTable {
  alignas(128) char query[8 * kTiles * kE * 2];  // rows swizzled as in paged_kv.cuh
  alignas(16) float2 turn[2][kE / 2];            // cosine and sine; of two sequences in turn
  uint32_t q_norm[kE / 2], k_norm[kE / 2];       // weights, as in memory

  __device__ __forceinline__ float4 Turn(int which, int lane) const {
    return reinterpret_cast<const float4*>(turn[which])[lane];
  }

  // The block's threads from `thread` 0 on; a barrier must follow.
  __device__ __forceinline__ void FillTurn(const DecodeParams& p, int sequence, int which) {
    const int i = threadIdx.x;
    if (i < kE / 2)
      turn[which][i] = TurnAt(p.positions[sequence], p.rotation.inv_freq[i], p.rotation.scale);
  }
  __device__ __forceinline__ void FillNorms(const DecodeParams& p) {
    const int i = threadIdx.x;
    if (p.rotation.q_norm == nullptr || i >= kE / 2) return;
    q_norm[i] = static_cast<const uint32_t*>(p.rotation.q_norm)[i];
    k_norm[i] = static_cast<const uint32_t*>(p.rotation.k_norm)[i];
  }
};

// Row of the raw qkv matrix.
template <typename T, int kE>
__device__ __forceinline__ const T* QkvRow(const DecodeParams& p, int sequence) {
  const int heads = p.h + 2 * (p.h / p.group);
  return static_cast<const T*>(p.qkv) + int64_t{sequence} * heads * kE;
}

// Where a word of a head lies in a tile of shared memory.
template <int kE>
__device__ __forceinline__ uint32_t* WordAt(char* tile, int row, int word) {
  return reinterpret_cast<uint32_t*>(tile + SwizzledBytes<kE>(row, word / 4)) + word % 4;
}

// A thread's share of the raw query rows of a (sequence, head): kE / 4 lanes have a row.
template <typename T, int kE, int kTiles>
struct RawQuery {
  static constexpr int kLanes = kE / 4, kRows = 8 * kTiles;
  static constexpr int kStep = kDecodeThreads / kLanes;  // rows at once
  static constexpr int kCount = (kRows + kStep - 1) / kStep;
  HeadWords words[kCount];

  // Rows from `rows` on are zeros.
  __device__ __forceinline__ void Load(const T* heads, int rows) {
    const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      words[i] = first + i * kStep < rows ? LoadHead<T, kE>(heads + (first + i * kStep) * kE, lane)
                                          : HeadWords{};
  }

  // Into table.query; a barrier must follow.
  __device__ __forceinline__ void Rotate(const DecodeParams& p, RotationTable<kE, kTiles>& table,
                                         int which) const {
    const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
    const float4 turn = table.Turn(which, lane);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      HeadQuad x = Unpack<T>(words[i]);
      if (p.rotation.q_norm != nullptr) {
        const HeadWords weight{table.q_norm[lane], table.q_norm[lane + kLanes]};
        x = Normalised<kE>(x, Unpack<T>(weight), p.rotation.norm_eps);
      }
      const HeadWords out = Pack<T>(Rotated(x, turn));
      const int row = first + i * kStep;
      if (row >= kRows) continue;
      *WordAt<kE>(table.query, row, lane) = out.low;
      *WordAt<kE>(table.query, row, lane + kLanes) = out.high;
    }
  }
};

// Columns of B fragments (mma.cuh): kTiles tiles of 8 query rows. Lane l holds of row
// 8 * tile + l / 4 the elements 16 i + l % 4 * 2 (and + 1) in q[tile][i][0], those 8 further in
// q[tile][i][1].
template <int kE, int kTiles>
struct QueryFragments {
  uint32_t q[kTiles][kE / 16][2];

  __device__ __forceinline__ void Load(const char* rows) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int i = 0; i < kE / 32; ++i) {
        uint32_t out[4];
        LoadMatrices(SharedAddress(rows) + SwizzledBytes<kE>(tile * 8 + lane % 8, i * 4 + lane / 8),
                     out);
        q[tile][i * 2][0] = out[0], q[tile][i * 2][1] = out[1];
        q[tile][i * 2 + 1][0] = out[2], q[tile][i * 2 + 1][1] = out[3];
      }
  }
};

// k and v of a sequence's newest token, for one kv head: lane l holds words l and l + kE / 4 of
// both, of kE / 4 lanes.
template <typename T, int kE>
struct NewToken {
  static constexpr int kLanes = kE / 4;
  HeadWords k, v;
  int64_t index;  // in the cache, or negative

  // After the kernels ahead have finished.
  __device__ __forceinline__ void Load(const DecodeParams& p, const ChunkCursor& at, int kv_head) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const T* heads = QkvRow<T, kE>(p, at.sequence) + p.h * kE;
    k = LoadHead<T, kE>(heads + kv_head * kE, lane);
    v = LoadHead<T, kE>(heads + (p.h / p.group + kv_head) * kE, lane);
    // Of the blocks that share a kv head, the one with its first query heads writes.
    index = at.head % p.parts == 0 ? p.kv_index[at.sequence] : -1;
    if (index >= int64_t{p.kv.blocks} * p.kv.block_size) index = -1;
  }

  // Rotates k, and puts it into row `row` of a tile of shared memory.
  template <int kTiles>
  __device__ __forceinline__ void PlaceKey(const DecodeParams& p,
                                           const RotationTable<kE, kTiles>& table, int which,
                                           char* tile, int row) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    HeadQuad x = Unpack<T>(k);
    if (p.rotation.k_norm != nullptr) {
      const HeadWords weight{table.k_norm[lane], table.k_norm[lane + kLanes]};
      x = Normalised<kE>(x, Unpack<T>(weight), p.rotation.norm_eps);
    }
    k = Pack<T>(Rotated(x, table.Turn(which, lane)));
    Place(k, tile, row);
  }
  __device__ __forceinline__ void PlaceValue(char* tile, int row) const { Place(v, tile, row); }

  // k, rotated, and v.
  __device__ __forceinline__ void WriteToCache(const DecodeParams& p, int kv_head) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (index < 0 || lane >= kLanes) return;
    // 32 bits: 2^32 tokens fit into no GPU, and a 64-bit division takes 100 instructions.
    const uint32_t token = static_cast<uint32_t>(index), size = p.kv.block_size;
    const int64_t block = token / size, offset = token % size;
    const int64_t at =
        ((block * p.kv.kv_heads + kv_head) * p.kv.block_size + offset) * (kE / 2) + lane;
    auto* const keys = static_cast<uint32_t*>(p.k_cache) + at;
    auto* const values = static_cast<uint32_t*>(p.v_cache) + at;
    keys[0] = k.low, keys[kLanes] = k.high;
    values[0] = v.low, values[kLanes] = v.high;
  }

 private:
  __device__ __forceinline__ static void Place(const HeadWords& x, char* tile, int row) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane >= kLanes) return;
    *WordAt<kE>(tile, row, lane) = x.low;
    *WordAt<kE>(tile, row, lane + kLanes) = x.high;
  }
};

}  // namespace tessera
