// Times all-reduce + residual + RMSNorm over the GPUs of one host, against NCCL's all-reduce
// followed by the norm kernel, in CUDA graphs of many back to back. Run: mpirun -n RANKS
// all_reduce_bench
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include <absl/strings/str_cat.h>
#include <cuda_runtime_api.h>
#include <mpi.h>

#include "common/float16.h"
#include "common/status_macros.h"
#include "kernels/comm/one_shot_all_reduce.h"
#include "kernels/comm/residual_add.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/cuda_status.h"
#include "parallel/nccl_communicator.h"
#include "parallel/peer_regions.h"

namespace tessera {
namespace {

constexpr int kCallsInGraph = 200;
constexpr int kRuns = 31;
constexpr int64_t kMaxRows = 16;
constexpr int64_t kMaxD = 8192;

struct Bench {
  int rank = 0, ranks = 0;
  int64_t bytes = 0;  // of each buffer
  cudaStream_t stream = nullptr;
  char* region = nullptr;
  char *partial = nullptr, *residual = nullptr, *weight = nullptr, *y = nullptr;
};

absl::Status FillWithNoise(void* data, int64_t bytes) {
  std::vector<uint16_t> values(static_cast<size_t>(bytes / 2));
  uint32_t state = 12345;
  for (uint16_t& v : values) {
    state = state * 1664525u + 1013904223u;
    v = FloatToBf16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-33f);
  }
  return CudaStatus(
      cudaMemcpy(data, values.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
      "bench data");
}

// Median and 90th percentile of one call in us, the slowest rank's.
absl::Status Time(const Bench& b, const char* name, const std::function<absl::Status()>& enqueue) {
  RETURN_IF_ERROR(enqueue());
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(b.stream), name);
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(b.stream, cudaStreamCaptureModeThreadLocal), name);
  for (int i = 0; i < kCallsInGraph; ++i) RETURN_IF_ERROR(enqueue());
  RETURN_IF_CUDA_ERROR(cudaStreamEndCapture(b.stream, &graph), name);
  RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&replay, graph, 0), name);
  cudaEvent_t start, stop;
  RETURN_IF_CUDA_ERROR(cudaEventCreate(&start), name);
  RETURN_IF_CUDA_ERROR(cudaEventCreate(&stop), name);
  std::vector<float> us;
  for (int run = -3; run < kRuns; ++run) {
    MPI_Barrier(MPI_COMM_WORLD);
    // The first replay brings the ranks together on the device; the second is timed.
    RETURN_IF_CUDA_ERROR(cudaGraphLaunch(replay, b.stream), name);
    RETURN_IF_CUDA_ERROR(cudaEventRecord(start, b.stream), name);
    RETURN_IF_CUDA_ERROR(cudaGraphLaunch(replay, b.stream), name);
    RETURN_IF_CUDA_ERROR(cudaEventRecord(stop, b.stream), name);
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(b.stream), name);
    float ms = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, start, stop), name);
    if (run >= 0) us.push_back(ms * 1000 / kCallsInGraph);
  }
  std::sort(us.begin(), us.end());
  float mine[2] = {us[kRuns / 2], us[kRuns * 9 / 10]}, slowest[2] = {};
  MPI_Allreduce(mine, slowest, 2, MPI_FLOAT, MPI_MAX, MPI_COMM_WORLD);
  if (b.rank == 0) std::printf("%-44s %8.2f us  p90 %8.2f\n", name, slowest[0], slowest[1]);
  std::fflush(stdout);
  RETURN_IF_CUDA_ERROR(cudaGraphExecDestroy(replay), name);
  return CudaStatus(cudaGraphDestroy(graph), name);
}

AllReduceNormArgs NormArgs(const Bench& b, int64_t t, int64_t d) {
  return {.partial = b.partial,
          .residual = b.residual,
          .weight = b.weight,
          .y = b.y,
          .t = t,
          .d = d,
          .eps = 1e-6f,
          .dtype = DType::kBf16};
}

// Each shape of blocks for a row, through the launcher itself.
absl::Status TimeShapes(const Bench& b, const PeerGroup& peers, int64_t t, int64_t d) {
  const auto cells = static_cast<int>(PeerCells(2 * d));
  for (const int per_block : {1, 2, 4, 8}) {
    const int blocks = (cells + per_block - 1) / per_block;
    if (blocks > 8 || (per_block > 1 && per_block / 2 >= cells)) continue;
    const AllReduceNormArgs a = NormArgs(b, t, d);
    const OneShotAllReduceNormArgs args = {.peers = peers,
                                           .partial = a.partial,
                                           .residual = a.residual,
                                           .weight = a.weight,
                                           .y = a.y,
                                           .t = t,
                                           .d = d,
                                           .eps = a.eps,
                                           .dtype = a.dtype,
                                           .shape = {per_block, blocks}};
    RETURN_IF_ERROR(
        Time(b, absl::StrCat("one shot t=", t, " d=", d, " ", blocks, "x", per_block * 128).c_str(),
             [&] { return LaunchOneShotAllReduceNorm(args, b.stream); }));
  }
  return absl::OkStatus();
}

absl::Status TimeCommunicator(const Bench& b, const char* way, Communicator& group) {
  const Stream stream = {.device = Device::kCuda, .cuda = b.stream};
  RETURN_IF_ERROR(FillWithNoise(b.partial, b.bytes));
  RETURN_IF_ERROR(FillWithNoise(b.residual, b.bytes));
  for (const int64_t d : {3584, 8192})
    for (const int64_t t : {1, 2, 4, 8, 16})
      RETURN_IF_ERROR(Time(b, absl::StrCat(way, " norm t=", t, " d=", d).c_str(),
                           [&] { return group.AllReduceNorm(NormArgs(b, t, d), stream); }));
  // Summed in place again and again, the data soon are infinite, which costs no different time.
  for (const int64_t kb : {8, 64, 256})
    RETURN_IF_ERROR(Time(b, absl::StrCat(way, " sum ", kb, " KB").c_str(), [&] {
      return group.AllReduceSum(b.partial, kb * 512, DType::kBf16, stream);
    }));
  for (const int64_t bytes : {64, 8192, 65536})
    RETURN_IF_ERROR(Time(b, absl::StrCat(way, " gather ", bytes, " B a rank").c_str(), [&] {
      return group.AllGather(b.y + b.rank * bytes, b.y, bytes, stream);
    }));
  return absl::OkStatus();
}

absl::Status Run() {
  Bench b;
  MPI_Comm_rank(MPI_COMM_WORLD, &b.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &b.ranks);
  RETURN_IF_CUDA_ERROR(cudaSetDevice(b.rank), "one GPU a rank");
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  cudaDeviceProp facts;
  int driver = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&facts, b.rank), "device facts");
  RETURN_IF_CUDA_ERROR(cudaDriverGetVersion(&driver), "driver");
  if (b.rank == 0)
    std::printf("%d x %s, driver %d, graphs of %d calls, median of %d replays\n", b.ranks,
                facts.name, driver, kCallsInGraph, kRuns);
  const int64_t bytes = PeerRegionBytes(b.ranks, kMaxRows, kMaxD, DType::kBf16);
  b.bytes = std::max(bytes, 4 * kMaxRows * kMaxD * 2);
  for (char** data : {&b.partial, &b.residual, &b.weight, &b.y, &b.region}) {
    void* memory = nullptr;
    RETURN_IF_CUDA_ERROR(cudaMalloc(&memory, static_cast<size_t>(b.bytes)), "bench memory");
    RETURN_IF_ERROR(FillWithNoise(memory, b.bytes));
    *data = static_cast<char*>(memory);
  }
  Ops ops{};
  ops.rms_norm = RmsNormCuda;
  ops.residual_add = ResidualAddCuda;
  {
    ASSIGN_OR_RETURN(const auto peers,
                     PeerRegions::Map(MPI_COMM_WORLD, b.region, bytes, absl::Seconds(20)));
    if (peers == nullptr) return absl::UnavailableError("no peer access");
    for (const int64_t d : {3584, 8192})
      for (const int64_t t : {1, 4, 8}) RETURN_IF_ERROR(TimeShapes(b, peers->group(), t, d));
  }
  MPI_Barrier(MPI_COMM_WORLD);
  NcclOptions options = {.peer_region = b.region, .peer_region_bytes = bytes};
  ASSIGN_OR_RETURN(const auto peer_group, NewNcclCommunicator(MPI_COMM_WORLD, ops, options));
  RETURN_IF_ERROR(TimeCommunicator(b, "peers", *peer_group));
  ASSIGN_OR_RETURN(const auto nccl_group, NewNcclCommunicator(MPI_COMM_WORLD, ops, {}));
  return TimeCommunicator(b, "nccl ", *nccl_group);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::KeepNvlinkMulticastOff();
  int provided = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return 2;
  const absl::Status status = tessera::Run();
  if (!status.ok()) {
    std::fprintf(stderr, "all_reduce_bench: %s\n", status.ToString().c_str());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
