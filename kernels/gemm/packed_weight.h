// How quantized weights lie in device memory: the one layout that the loader writes and every
// kernel reads. Host and device arithmetic.
#pragma once

#include <cstdint>

#include "common/align.h"

namespace tessera {

// A [n, k] weight of 4- or 8-bit integers, w[i, j] = scale * (q - zero), with scale and zero of row
// i and of j's group. Pointers are device memory, 16-byte aligned. n is a multiple of 8, k of 16.
//
// values: tiles of 8 rows. A tile is a run of blocks of 128 (4 bits) or 64 (8 bits) successive j,
//   512 bytes each: 64 of each row in turn. A row's part of a block is four pieces of 16 bytes;
//   piece l belongs to lane l of a quad and holds, for each step s of 16 j of the block, what the
//   lane feeds to mma m16n8k16: j = 16 s + {2l, 2l + 1, 2l + 8, 2l + 9}. PackedPlaceOf() says where
//   each lies. Past k they are 0, and x counts as 0 there.
// scales: f16 [groups, n].
// zeros: [groups, PackedZeroStride()] bytes: with 8 bits a byte a row, with 4 two rows a byte, the
//   even row in the low nibble. Null: 2^(bits - 1) everywhere.
// group_of_step: u16 [k / 16], the group of each step of 16 j, for weights whose groups are ragged
//   (act-order split over ranks). Null: j / group.
struct PackedWeight {
  int bits = 0;  // 4 or 8
  int64_t n = 0, k = 0;
  int64_t groups = 0;  // rows of scales and zeros
  int64_t group = 0;   // j that share a scale: 32, 64, a multiple of 128, or k or more
  const void* values = nullptr;
  const void* scales = nullptr;
  const void* zeros = nullptr;
  const uint16_t* group_of_step = nullptr;
};

constexpr int64_t kPackedBlockBytes = 64;  // of a row
constexpr int64_t kPackedTileRows = 8;
constexpr int64_t kPackedTileBytes = kPackedTileRows * kPackedBlockBytes;  // of a block
constexpr int64_t kPackedStep = 16;                                        // j of one mma step

// Successive j of a block.
constexpr int64_t PackedBlock(int bits) { return kPackedBlockBytes * 8 / bits; }

// Of values, a row's share.
constexpr int64_t PackedRowBytes(int bits, int64_t k) {
  return CeilDiv(k, PackedBlock(bits)) * kPackedBlockBytes;
}

constexpr int64_t PackedZeroStride(int bits, int64_t n) { return AlignUp(n * bits / 8, 16); }

// Where row i begins in values; its blocks lie kPackedTileBytes apart.
constexpr int64_t PackedRowAt(int bits, int64_t k, int64_t i) {
  return i / kPackedTileRows * kPackedTileRows * PackedRowBytes(bits, k) +
         i % kPackedTileRows * kPackedBlockBytes;
}

// Where q[i, j] lies: the byte from where row i begins, and the shift in it (0 but for the high
// nibble).
struct PackedPlace {
  int64_t byte;
  int shift;
};

// Of a step's four values of a lane, value v (2l, 2l + 1, 2l + 8, 2l + 9) is field
// v / 2 + fields / 2 * (v % 2) of the lane's word, so that masking a word leaves neighbours in its
// two halves; with 4 bits an odd step follows an even one by two fields.
constexpr PackedPlace PackedPlaceOf(int bits, int64_t j) {
  const int64_t in_block = j % PackedBlock(bits), step = in_block / kPackedStep;
  const int64_t in_step = j % kPackedStep, lane = in_step % 8 / 2;
  const int64_t v = in_step / 8 * 2 + in_step % 2;
  const int64_t steps_a_word = 8 / bits, fields = 32 / bits;
  const int64_t word = step / steps_a_word;
  const int64_t field = v / 2 + step % steps_a_word * 2 + fields / 2 * (v % 2);
  const int64_t bit = field * bits;
  return {j / PackedBlock(bits) * kPackedTileBytes + lane * 16 + word * 4 + bit / 8,
          static_cast<int>(bit % 8)};
}

}  // namespace tessera
