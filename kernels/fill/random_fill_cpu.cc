#include "common/float16.h"
#include "common/status_macros.h"
#include "kernels/fill/fill_math.h"
#include "kernels/fill/random_fill.h"
#include "kernels/fill/random_fill_check.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kGrain = 16384;  // elements a thread should have to be worth waking

// `round` turns a float into the element type.
template <typename T, typename Round>
void Fill(const RandomFillArgs& a, CpuPool& pool, Round round) {
  T* dst = static_cast<T*>(a.dst);
  pool.ParallelFor(a.rows, kGrain / (a.cols + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = (a.first_row + r) * a.row_stride + a.first_col;
      for (int64_t c = 0; c < a.cols; ++c)
        dst[r * a.dst_stride + c] =
            round(FillValue(a.key, static_cast<uint64_t>(first + c), a.scale, a.offset));
    }
  });
}

}  // namespace

absl::Status RandomFillCpu(const RandomFillArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckRandomFill(args));
  if (args.dtype == DType::kF32) Fill<float>(args, *stream.pool, [](float v) { return v; });
  if (args.dtype == DType::kBf16) Fill<uint16_t>(args, *stream.pool, FloatToBf16);
  if (args.dtype == DType::kF16) Fill<uint16_t>(args, *stream.pool, FloatToF16);
  return absl::OkStatus();
}

}  // namespace tessera
