#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/comm/one_shot_all_reduce.h"
#include "kernels/comm/peer_packet.cuh"
#include "kernels/device/cluster.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/place_column.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/column_places_check.h"

namespace tessera {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxClusterBlocks = 8;
constexpr int kCellThreads = static_cast<int>(kPeerCellPackets);

template <typename T>
constexpr int kElements = static_cast<int>(kPeerPacketBytes / sizeof(T));  // of a packet

// Between two 16-bit elements in a word, or one fp32, and floats.
template <typename T>
__device__ __forceinline__ void Unpack(uint32_t word, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    to[0] = __uint_as_float(word);
  } else if constexpr (std::is_same_v<T, __half>) {
    __half2 pair;
    memcpy(&pair, &word, sizeof(word));
    to[0] = __low2float(pair);
    to[1] = __high2float(pair);
  } else {
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000u);
  }
}
template <typename T>
__device__ __forceinline__ uint32_t Pack(const float* from) {
  uint32_t word;
  if constexpr (std::is_same_v<T, float>) {
    word = __float_as_uint(from[0]);
  } else if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(from[0], from[1]);
    memcpy(&word, &pair, sizeof(word));
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);
    memcpy(&word, &pair, sizeof(word));
  }
  return word;
}

// The elements of a packet as floats.
template <typename T>
struct Elements {
  static constexpr int kPerWord = kElements<T> / 4;
  float at[kElements<T>];

  __device__ __forceinline__ Elements() {}
  __device__ __forceinline__ explicit Elements(uint4 p) {
    Unpack<T>(p.x, at);
    Unpack<T>(p.y, at + kPerWord);
    Unpack<T>(p.z, at + 2 * kPerWord);
    Unpack<T>(p.w, at + 3 * kPerWord);
  }
  // Rounded to T.
  __device__ __forceinline__ uint4 Packed() const {
    return make_uint4(Pack<T>(at), Pack<T>(at + kPerWord), Pack<T>(at + 2 * kPerWord),
                      Pack<T>(at + 3 * kPerWord));
  }
};

// The sum of the ranks' packets, left to right in rank order; `mine` stands for this rank's.
template <typename T, int kMaxRanks>
__device__ __forceinline__ Elements<T> SumParts(const uint4 (&parts)[kMaxRanks], uint4 mine,
                                                const PeerGroup& g) {
  Elements<T> sum;
#pragma unroll
  for (int r = 0; r < kMaxRanks; ++r) {
    if (r >= g.ranks) continue;
    const Elements<T> part(r == g.rank ? mine : parts[r]);
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) sum.at[i] = r == 0 ? part.at[i] : sum.at[i] + part.at[i];
  }
  return sum;
}

// The sum of `value` over the cluster in a fixed order; every thread gets it. The caller has done
// ClusterArrive() when the cluster has more than one block. It is a barrier of the block.
__device__ __forceinline__ float ClusterSum(float value, uint32_t block, uint32_t blocks) {
  __shared__ float of_warps[kMaxThreads / kWarp];
  __shared__ float of_blocks[kMaxClusterBlocks];
  value = WarpReduce<SumOp>(value);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (lane == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = WarpReduce<SumOp>(lane < warps ? of_warps[lane] : 0.f);
  if (blocks == 1) return value;
  ClusterWait();  // the other blocks run, so their shared memory is there
  if (threadIdx.x < blocks) StoreInCluster(of_blocks + block, threadIdx.x, value);
  ClusterArrive();
  ClusterWait();
  float sum = 0;
  for (uint32_t b = 0; b < blocks; ++b) sum += of_blocks[b];
  return sum;
}

// This thread's packet of y, number `in_row` of row `row`, to its place in every copy. Few rows:
// the scattered columns of an ordered copy cost less than an exchange over the cluster would.
template <typename T>
__device__ __forceinline__ void StoreCopies(const OneShotAllReduceNormArgs& a, int64_t row,
                                            int64_t in_row, const uint4& packet) {
  const int64_t row_packets = a.d / kElements<T>;
  if (a.copies.count == 0) {
    static_cast<uint4*>(a.y)[row * row_packets + in_row] = packet;
    return;
  }
  auto* copy = static_cast<T*>(a.y);
  for (int c = 0; c < a.copies.count; ++c) {
    const ColumnPlaces& order = a.copies.copies[c];
    const int64_t width = order.WidthOf(a.d);
    T* const y = copy + row * width;
    copy += a.t * width;
    if (order.places == nullptr)
      reinterpret_cast<uint4*>(y)[in_row] = packet;
    else
      PlaceColumns(order.places + in_row * kElements<T>, packet, reinterpret_cast<uint16_t*>(y));
  }
}

// One cluster a row, one packet a thread. Block b of a row has the row's packets from
// b * blockDim.x on and owns their cells' counters. Grid t * blocks_per_row, clusters of
// blocks_per_row, blocks of cells_per_block * kCellThreads threads.
template <typename T, int kMaxRanks>
__global__ void __launch_bounds__(kMaxThreads)
    OneShotAllReduceNormKernel(const __grid_constant__ OneShotAllReduceNormArgs a) {
  const PeerGroup& g = a.peers;
  const auto blocks = static_cast<uint32_t>(a.shape.blocks_per_row);
  const uint32_t block = blockIdx.x % blocks;
  const int64_t row = blockIdx.x / blocks, row_packets = a.d / kElements<T>;
  const int64_t row_cells = (row_packets + kCellThreads - 1) / kCellThreads;
  const int64_t in_row = int64_t{block} * blockDim.x + threadIdx.x;
  const int64_t cell = row * row_cells + in_row / kCellThreads;
  const int64_t element_packet = row * row_packets + in_row;
  const bool active = in_row < row_packets;

  LetNextStart();
  if (blocks > 1) ClusterArrive();
  uint4 weight = {};
  if (active && a.weight != nullptr)  // no kernel of the stream writes weights
    weight = static_cast<const uint4*>(a.weight)[in_row];
  for (int c = 0; active && c < a.copies.count; ++c)
    if (a.copies.copies[c].places != nullptr)
      PrefetchToL2(a.copies.copies[c].places + in_row * kElements<T>);
  WaitForPrevious();

  float squares = 0;
  uint4 residual = {};
  if (active) {
    const PacketPlace place = {cell * kCellThreads + threadIdx.x % kCellThreads,
                               *CounterOf(g, cell)};
    const uint4 mine = Sendable(static_cast<const uint4*>(a.partial)[element_packet]);
    SendToPeers(g, place, mine);
    const uint4 before = static_cast<const uint4*>(a.residual)[element_packet];
    uint4 parts[kMaxRanks];
    TakeFromPeers(g, place, SumPacketCame(), parts);
    Elements<T> x = SumParts<T>(parts, mine, g);
    const Elements<T> old(before);
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) x.at[i] += old.at[i];
    residual = x.Packed();
    static_cast<uint4*>(a.residual)[element_packet] = residual;
    const Elements<T> rounded(residual);
#pragma unroll
    for (int i = 0; i < kElements<T>; ++i) squares += rounded.at[i] * rounded.at[i];
  }
  const float sum = ClusterSum(squares, block, blocks);
  // All threads of the block have read their counters before the barrier in ClusterSum.
  if (active && threadIdx.x % kCellThreads == 0) *CounterOf(g, cell) += 1;
  if (!active || a.weight == nullptr) return;
  const float scale = rsqrtf(sum / static_cast<float>(a.d) + a.eps);
  Elements<T> y(residual);
  const Elements<T> w(weight);
#pragma unroll
  for (int i = 0; i < kElements<T>; ++i) y.at[i] *= scale * w.at[i];
  StoreCopies<T>(a, row, in_row, y.Packed());
}

// One cell a block, one packet a thread. The last packet may be partly filled.
template <typename T, int kMaxRanks>
__global__ void __launch_bounds__(kCellThreads)
    OneShotAllReduceSumKernel(const __grid_constant__ OneShotAllReduceSumArgs a) {
  const PeerGroup& g = a.peers;
  const int64_t cell = blockIdx.x, packet = cell * kCellThreads + threadIdx.x;
  const int64_t left = a.count - packet * kElements<T>;
  T* data = static_cast<T*>(a.data) + packet * kElements<T>;
  LetNextStart();
  WaitForPrevious();
  if (left > 0) {
    const PacketPlace place = {packet, *CounterOf(g, cell)};
    const bool full = left >= kElements<T>;
    uint4 mine;
    if (full) {
      mine = *reinterpret_cast<const uint4*>(data);
    } else {
      Elements<T> some;
#pragma unroll
      for (int i = 0; i < kElements<T>; ++i)
        some.at[i] = i < left ? static_cast<float>(data[i]) : 0.f;
      mine = some.Packed();
    }
    mine = Sendable(mine);
    SendToPeers(g, place, mine);
    uint4 parts[kMaxRanks];
    TakeFromPeers(g, place, SumPacketCame(), parts);
    const Elements<T> sum = SumParts<T>(parts, mine, g);
    if (full) {
      *reinterpret_cast<uint4*>(data) = sum.Packed();
    } else {
#pragma unroll
      for (int i = 0; i < kElements<T>; ++i)
        if (i < left) data[i] = FromFloat<T>(sum.at[i]);
    }
  }
  __syncthreads();  // all have read the counter
  if (threadIdx.x == 0) *CounterOf(g, cell) += 1;
}

absl::Status CheckNorm(const OneShotAllReduceNormArgs& a, int64_t row_cells) {
  const bool covers = a.shape.cells_per_block > 0 && a.shape.blocks_per_row > 0 &&
                      a.shape.cells_per_block * kCellThreads <= kMaxThreads &&
                      a.shape.blocks_per_row <= kMaxClusterBlocks &&
                      a.shape.cells_per_block * a.shape.blocks_per_row >= row_cells;
  if (a.t < 0 || a.d < 0 || a.d % 8 != 0 || !covers || a.t * row_cells > a.peers.cells)
    return absl::InvalidArgumentError(absl::StrCat(
        "one_shot_all_reduce: t=", a.t, " d=", a.d, " in ", a.shape.blocks_per_row, " blocks of ",
        a.shape.cells_per_block, " cells a row; the region has ", a.peers.cells, " cells"));
  return CheckCopies("one_shot_all_reduce", a.copies, a.d);
}

}  // namespace

absl::Status LaunchOneShotAllReduceNorm(const OneShotAllReduceNormArgs& a, cudaStream_t stream) {
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CheckNorm(a, PeerCells(a.d * SizeOf(a.dtype))));
  return VisitHalf(a.dtype, "one_shot_all_reduce", [&]<typename T>(TypeTag<T>) {
    return VisitMaxRanks(a.peers.ranks, [&]<int kMaxRanks>(std::integral_constant<int, kMaxRanks>) {
      const auto blocks = static_cast<unsigned>(a.shape.blocks_per_row);
      cudaLaunchAttribute attributes[2];
      attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[0].val.programmaticStreamSerializationAllowed = 1;
      attributes[1].id = cudaLaunchAttributeClusterDimension;
      attributes[1].val.clusterDim = {blocks, 1, 1};
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(static_cast<unsigned>(a.t) * blocks);
      config.blockDim = dim3(static_cast<unsigned>(a.shape.cells_per_block * kCellThreads));
      config.stream = stream;
      config.attrs = attributes;
      config.numAttrs = !CanLaunchDependent() ? 0 : blocks > 1 ? 2 : 1;
      return CudaStatus(cudaLaunchKernelEx(&config, OneShotAllReduceNormKernel<T, kMaxRanks>, a),
                        "one_shot_all_reduce launch");
    });
  });
}

absl::Status LaunchOneShotAllReduceSum(const OneShotAllReduceSumArgs& a, cudaStream_t stream) {
  const int64_t cells = PeerCells(a.count * SizeOf(a.dtype));
  if (a.count < 0 || cells > a.peers.cells)
    return absl::InvalidArgumentError(absl::StrCat("one_shot_all_reduce: count=", a.count,
                                                   "; the region has ", a.peers.cells, " cells"));
  if (a.count == 0) return absl::OkStatus();
  return VisitFloat(a.dtype, "one_shot_all_reduce", [&]<typename T>(TypeTag<T>) {
    return VisitMaxRanks(a.peers.ranks, [&]<int kMaxRanks>(std::integral_constant<int, kMaxRanks>) {
      return LaunchDependent("one_shot_all_reduce launch", OneShotAllReduceSumKernel<T, kMaxRanks>,
                             {.grid = dim3(static_cast<unsigned>(cells)),
                              .block = dim3(kCellThreads),
                              .stream = stream},
                             a);
    });
  });
}

}  // namespace tessera
