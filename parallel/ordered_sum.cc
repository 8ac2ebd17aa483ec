#include "parallel/ordered_sum.h"

#include <algorithm>

#include "common/check.h"
#include "common/float16.h"

namespace tessera {
namespace {

constexpr int64_t kTile = 1024;  // sums kept in L1 while the parts stream by

template <typename T, typename ToFloat, typename FromFloat>
void SumTiles(absl::Span<const void* const> parts, int64_t count, void* out, ToFloat to_float,
              FromFloat from_float) {
  float sums[kTile];
  for (int64_t at = 0; at < count; at += kTile) {
    const int64_t n = std::min(kTile, count - at);
    for (size_t p = 0; p < parts.size(); ++p) {
      const T* part = static_cast<const T*>(parts[p]) + at;
      if (p == 0)
        for (int64_t i = 0; i < n; ++i) sums[i] = to_float(part[i]);
      else
        for (int64_t i = 0; i < n; ++i) sums[i] += to_float(part[i]);
    }
    T* to = static_cast<T*>(out) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = from_float(sums[i]);
  }
}

}  // namespace

void SumInOrder(absl::Span<const void* const> parts, int64_t count, DType dtype, void* out) {
  TESSERA_CHECK(!parts.empty() && IsFloat(dtype), "parts=", parts.size(), " of ", Name(dtype));
  switch (dtype) {
    case DType::kBf16:
      return SumTiles<uint16_t>(parts, count, out, Bf16ToFloat, FloatToBf16);
    case DType::kF16:
      return SumTiles<uint16_t>(parts, count, out, F16ToFloat, FloatToF16);
    default:
      return SumTiles<float>(
          parts, count, out, [](float x) { return x; }, [](float x) { return x; });
  }
}

}  // namespace tessera
