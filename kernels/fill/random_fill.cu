#include <algorithm>

#include "common/status_macros.h"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/fill/fill_math.h"
#include "kernels/fill/random_fill.h"
#include "kernels/fill/random_fill_check.h"
#include "kernels/runtime/cuda_status.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;

// Elements are dealt to threads round robin over the whole grid; neighbours write neighbours.
// Grid any, block kThreads.
template <typename T>
__global__ void RandomFillKernel(RandomFillArgs a) {
  T* dst = static_cast<T*>(a.dst);
  const int64_t count = a.rows * a.cols, step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t r = i / a.cols, c = i % a.cols;
    const int64_t global = (a.first_row + r) * a.row_stride + a.first_col + c;
    dst[r * a.dst_stride + c] =
        FromFloat<T>(FillValue(a.key, static_cast<uint64_t>(global), a.scale, a.offset));
  }
}

}  // namespace

absl::Status RandomFillCuda(const RandomFillArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckRandomFill(args));
  if (args.rows == 0 || args.cols == 0) return absl::OkStatus();
  const int64_t blocks = std::min((args.rows * args.cols + kThreads - 1) / kThreads, kMaxBlocks);
  return VisitFloat(args.dtype, "random_fill", [&]<typename T>(TypeTag<T>) {
    RandomFillKernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, stream.cuda>>>(args);
    return CudaStatus(cudaGetLastError(), "random_fill launch");
  });
}

}  // namespace tessera
