#include <algorithm>
#include <cstring>

#include <absl/status/status.h>

#include "common/check.h"
#include "common/float16.h"
#include "common/status_macros.h"
#include "kernels/embedding/embed.h"
#include "kernels/embedding/embed_check.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kGrainElements = 16 * 1024;  // less than this is not worth waking a thread

void CopyRow(const void* table, DType dtype, int64_t row, int64_t d, float* y) {
  const auto* source = static_cast<const uint8_t*>(table) + row * d * SizeOf(dtype);
  if (dtype == DType::kF32) {
    std::memcpy(y, source, static_cast<size_t>(d) * sizeof(float));
    return;
  }
  for (int64_t j = 0; j < d; ++j) {
    uint16_t bits;
    std::memcpy(&bits, source + j * 2, sizeof(bits));
    y[j] = dtype == DType::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

}  // namespace

absl::Status EmbedCpu(const EmbedArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckEmbed(a, Device::kCpu));
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  TESSERA_CHECK(stream.pool != nullptr, "embed: the stream has no CPU pool");
  const int64_t grain = std::max<int64_t>(1, kGrainElements / a.d);
  stream.pool->ParallelFor(a.t, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* y = static_cast<float*>(a.y) + i * a.d;
      const int64_t row = int64_t{a.tokens[i]} - a.first_row;
      if (row < 0 || row >= a.rows) {
        std::fill(y, y + a.d, 0.f);
      } else {
        CopyRow(a.table, a.table_dtype, row, a.d, y);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace tessera
