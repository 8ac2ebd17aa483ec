#include <algorithm>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/place_column.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/norm/rms_norm.h"
#include "kernels/norm/rms_norm_check.h"

namespace tessera {
namespace {

constexpr int kVector = 8;  // 16 bytes of a 16-bit type
constexpr int kMaxThreads = 1024;
constexpr int kMaxVectors = 4;  // a thread's; 1024 * 4 * 8 is the widest row

template <typename T>
struct alignas(16) Eight {
  T values[kVector];
};

// Sum over the block in a fixed order; every thread gets it. `scratch` holds a float a warp.
__device__ float BlockSum(float value, float* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = WarpReduce<SumOp>(value);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return WarpReduce<SumOp>(lane < warps ? scratch[lane] : 0.f);
}

// Where the pieces of a row go: straight to y, or, with copies, through shared memory, which takes
// columns in any order and gives them in 16-byte pieces.
template <typename T, bool kCopies>
class RowWriter {
 public:
  __device__ __forceinline__ RowWriter(const RmsNormArgs& a, int64_t row, char* shared)
      : a_(a), row_(row), shared_(reinterpret_cast<uint16_t*>(shared)) {}

  // The block's pieces first, first + blockDim.x, ... as piece(number, index among them).
  template <typename Piece>
  __device__ __forceinline__ void Write(int pieces, const Piece& piece) const {
    if constexpr (!kCopies) {
      auto* y = static_cast<Eight<T>*>(a_.y) + row_ * pieces;
      ForPieces(pieces, [&](int p, int v) { y[p] = piece(p, v); });
    } else {
      auto* copy = static_cast<T*>(a_.y);
      for (int c = 0; c < a_.copies.count; ++c) {
        const ColumnPlaces& order = a_.copies.copies[c];
        const int64_t width = order.WidthOf(a_.d);
        auto* y = reinterpret_cast<uint4*>(copy + row_ * width);
        copy += a_.t * width;
        if (order.places == nullptr) {
          ForPieces(pieces, [&](int p, int v) { y[p] = Bits(piece(p, v)); });
          continue;
        }
        ForPieces(pieces, [&](int p, int v) {
          PlaceColumns(order.places + p * kVector, Bits(piece(p, v)), shared_);
        });
        __syncthreads();
        for (int p = static_cast<int>(threadIdx.x); p < width / kVector;
             p += static_cast<int>(blockDim.x))
          y[p] = reinterpret_cast<const uint4*>(shared_)[p];
        __syncthreads();
      }
    }
  }

 private:
  static __device__ __forceinline__ uint4 Bits(const Eight<T>& piece) {
    return *reinterpret_cast<const uint4*>(&piece);
  }
  template <typename Visit>
  static __device__ __forceinline__ void ForPieces(int pieces, const Visit& visit) {
#pragma unroll
    for (int v = 0; v < kMaxVectors; ++v) {
      const int p = static_cast<int>(threadIdx.x) + v * static_cast<int>(blockDim.x);
      if (p < pieces) visit(p, v);
    }
  }

  const RmsNormArgs& a_;
  const int64_t row_;
  uint16_t* const shared_;
};

// Reads the lists ahead of the kernels before: nothing writes them.
__device__ __forceinline__ void PrefetchOrders(const RmsNormArgs& a) {
  for (int c = 0; c < a.copies.count; ++c) {
    const int32_t* places = a.copies.copies[c].places;
    if (places == nullptr) continue;
    for (int64_t at = int64_t{threadIdx.x} * 32; at < a.d; at += int64_t{blockDim.x} * 32)
      PrefetchToL2(places + at);
  }
}

// One block a row; a thread keeps its 16-byte pieces of the row in registers between the two steps.
// Grid t, block of whole warps covering d / 8 with up to kMaxVectors pieces a thread. Shared
// memory: the widest ordered copy's row.
template <typename T, bool kCopies>
__global__ void __launch_bounds__(kMaxThreads)
    RmsNormKernel(const __grid_constant__ RmsNormArgs a) {
  __shared__ float scratch[kMaxThreads / kWarp];
  extern __shared__ __align__(16) char ordered_row[];
  const int64_t i = blockIdx.x;
  const int pieces = static_cast<int>(a.d / kVector), step = static_cast<int>(blockDim.x);
  const int first = static_cast<int>(threadIdx.x);
  const auto* weight = static_cast<const Eight<T>*>(a.weight);
  const RowWriter<T, kCopies> writer(a, i, ordered_row);
  LetNextStart();
  if constexpr (kCopies) PrefetchOrders(a);
  WaitForPrevious();

  const int64_t row = a.rows != nullptr ? a.rows[i] : i;
  if (row < 0) {
    Eight<T> zeros;
    for (int j = 0; j < kVector; ++j) zeros.values[j] = FromFloat<T>(0.f);
    writer.Write(pieces, [&](int, int) { return zeros; });
    return;
  }
  const bool adds = a.add != nullptr;
  const auto* add = static_cast<const Eight<T>*>(a.add) + i * pieces;
  auto* residual = static_cast<Eight<T>*>(a.residual) + i * pieces;
  const auto* x = adds ? residual : static_cast<const Eight<T>*>(a.x) + row * pieces;
  Eight<T> kept[kMaxVectors];
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kMaxVectors; ++v) {
    const int p = first + v * step;
    if (p >= pieces) break;
    kept[v] = x[p];
    if (adds) {
      const Eight<T> more = add[p];
      for (int j = 0; j < kVector; ++j)
        kept[v].values[j] = FromFloat<T>(static_cast<float>(kept[v].values[j]) +
                                         static_cast<float>(more.values[j]));
      residual[p] = kept[v];
    }
    for (int j = 0; j < kVector; ++j) {
      const auto f = static_cast<float>(kept[v].values[j]);
      squares += f * f;
    }
  }
  const float scale = rsqrtf(BlockSum(squares, scratch) / static_cast<float>(a.d) + a.eps);
  writer.Write(pieces, [&](int p, int v) {
    const Eight<T> m = weight[p];
    Eight<T> out;
    for (int j = 0; j < kVector; ++j)
      out.values[j] = FromFloat<T>(static_cast<float>(m.values[j]) *
                                   (static_cast<float>(kept[v].values[j]) * scale));
    return out;
  });
}

}  // namespace

absl::Status RmsNormCuda(const RmsNormArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRmsNorm(a, Device::kCuda));
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  const int64_t warps = (a.d / kVector + kWarp - 1) / kWarp;
  const int64_t threads = std::min<int64_t>(warps * kWarp, kMaxThreads);
  int64_t widest = 0;
  for (int c = 0; c < a.copies.count; ++c)
    if (a.copies.copies[c].places != nullptr) widest = std::max(widest, a.copies.copies[c].width);
  return VisitHalf(a.dtype, "rms_norm", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("rms_norm launch",
                           a.copies.count == 0 ? RmsNormKernel<T, false> : RmsNormKernel<T, true>,
                           {.grid = dim3(static_cast<unsigned>(a.t)),
                            .block = dim3(static_cast<unsigned>(threads)),
                            .shared_bytes = static_cast<size_t>(widest) * sizeof(T),
                            .stream = stream.cuda},
                           a);
  });
}

}  // namespace tessera
