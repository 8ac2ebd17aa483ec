#include <algorithm>
#include <array>
#include <cstring>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/gemm/repack.h"
#include "kernels/gemm/repack_math.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kGrainValues = 32 * 1024;  // less than this is not worth waking a thread

// The planner's sizes are those of the layout.
constexpr bool SizesAgree(int bits, int64_t n, int64_t k) {
  return CeilDiv(k, int64_t{512} / bits) * 64 == PackedRowBytes(bits, k) &&
         AlignUp(n * bits / 8, 16) == PackedZeroStride(bits, n);
}
static_assert(SizesAgree(4, 24, 144) && SizesAgree(8, 24, 144) && SizesAgree(4, 8, 128));

// One row's blocks, from a table of where the columns of a block lie.
void PackRow(const RepackArgs& a, const std::array<PackedPlace, 128>& places, int64_t c,
             uint8_t* row) {
  const int64_t block = PackedBlock(a.bits);
  for (int64_t j = a.j_begin; j < a.j_end; j += block) {
    uint8_t* out = row + j / block * kPackedTileBytes;
    std::memset(out, 0, kPackedBlockBytes);
    const int64_t count = std::min(block, a.j_end - j);
    for (int64_t i = 0; i < count; ++i) {
      const PackedPlace& place = places[static_cast<size_t>(i)];
      out[place.byte] =
          static_cast<uint8_t>(out[place.byte] | PackedValue(a, j + i, c) << place.shift);
    }
  }
}

}  // namespace

absl::Status RepackCpu(const RepackArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRepack(a));
  if (a.outputs == 0 || a.j_begin == a.j_end) return absl::OkStatus();
  TESSERA_CHECK(stream.pool != nullptr, "repack: the stream has no CPU pool");
  std::array<PackedPlace, 128> places;
  for (int64_t i = 0; i < PackedBlock(a.bits); ++i)
    places[static_cast<size_t>(i)] = PackedPlaceOf(a.bits, i);
  stream.pool->ParallelFor(
      a.outputs, kGrainValues / (a.j_end - a.j_begin) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
          const int64_t row = PackedRow(a, c);
          if (row >= 0)
            PackRow(a, places, c, static_cast<uint8_t*>(a.values) + PackedRowAt(a.bits, a.k, row));
        }
      });
  return absl::OkStatus();
}

}  // namespace tessera
