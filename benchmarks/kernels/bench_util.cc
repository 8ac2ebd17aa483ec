#include "benchmarks/kernels/bench_util.h"

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include <cuda_runtime_api.h>

#include "common/float16.h"
#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"

namespace tessera {

absl::StatusOr<BenchGpu> OpenBenchGpu() {
  BenchGpu gpu;
  ASSIGN_OR_RETURN(gpu.runtime, NewRuntime({.device = Device::kCuda}));
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, 0), "device properties");
  RETURN_IF_CUDA_ERROR(cudaDriverGetVersion(&gpu.driver), "driver version");
  gpu.name = properties.name;
  gpu.sm_count = properties.multiProcessorCount;
  gpu.l2_bytes = properties.l2CacheSize;
  return gpu;
}

absl::StatusOr<char*> AllocateNoise(const BenchGpu& gpu, int64_t bytes, DType dtype) {
  constexpr size_t kPattern = size_t{8} << 20;  // values; repeated over the buffer
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1.f, 1.f);
  std::vector<uint16_t> noise(kPattern);
  for (uint16_t& v : noise)
    v = dtype == DType::kBf16 ? FloatToBf16(uniform(engine)) : FloatToF16(uniform(engine));
  ASSIGN_OR_RETURN(void* const memory, gpu.runtime->AllocateDevice(bytes));
  const auto pattern_bytes = static_cast<int64_t>(kPattern * sizeof(uint16_t));
  char* const base = static_cast<char*>(memory);
  for (int64_t at = 0; at < bytes; at += pattern_bytes)
    RETURN_IF_CUDA_ERROR(
        cudaMemcpy(base + at, noise.data(),
                   static_cast<size_t>(std::min(pattern_bytes, bytes - at)), cudaMemcpyDefault),
        "noise upload");
  return base;
}

int RotationCount(const BenchGpu& gpu, int64_t bytes, int64_t pool_bytes) {
  const int64_t past_l2 = 4 * gpu.l2_bytes / std::max<int64_t>(1, bytes) + 2;
  return static_cast<int>(std::clamp<int64_t>(pool_bytes / std::max<int64_t>(1, bytes), 1,
                                              std::clamp<int64_t>(past_l2, 8, 64)));
}

absl::StatusOr<Timing> TimeLaunches(const BenchGpu& gpu, int launches,
                                    const std::function<absl::Status(int)>& enqueue) {
  constexpr int kWarmUps = 3;
  const Stream& stream = gpu.runtime->main_stream();
  ASSIGN_OR_RETURN(const std::unique_ptr<Graph> graph, gpu.runtime->Capture([&] {
    for (int i = 0; i < launches; ++i) RETURN_IF_ERROR(enqueue(i));
    return absl::OkStatus();
  }));
  cudaEvent_t start, stop;
  RETURN_IF_CUDA_ERROR(cudaEventCreate(&start), "event create");
  RETURN_IF_CUDA_ERROR(cudaEventCreate(&stop), "event create");
  std::vector<double> us;
  for (int run = 0; run < kWarmUps + kTimedRuns; ++run) {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(start, stream.cuda), "event record");
    RETURN_IF_ERROR(graph->Launch(stream));
    RETURN_IF_CUDA_ERROR(cudaEventRecord(stop, stream.cuda), "event record");
    RETURN_IF_CUDA_ERROR(cudaEventSynchronize(stop), "event wait");
    float ms = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, start, stop), "event time");
    if (run >= kWarmUps) us.push_back(ms * 1000. / launches);
  }
  (void)cudaEventDestroy(start);
  (void)cudaEventDestroy(stop);
  std::sort(us.begin(), us.end());
  return Timing{.median_us = us[us.size() / 2],
                .p10_us = us[us.size() / 10],
                .p90_us = us[us.size() * 9 / 10],
                .runs = static_cast<int>(us.size())};
}

void PrintBenchHeader(const BenchGpu& gpu) {
  std::printf("# %s, %d SMs, driver for CUDA %d.%d, median of %d replays, %% of %.2f TB/s\n",
              gpu.name.c_str(), gpu.sm_count, gpu.driver / 1000, gpu.driver % 1000 / 10, kTimedRuns,
              kReadBytesPerSecond / 1e12);
}

void PrintBenchFigure(const BenchGpu& gpu, const BenchFigure& f) {
  const double seconds = f.timing.median_us * 1e-6;
  const double gbps = f.bytes / seconds / 1e9, share = f.bytes / seconds / kReadBytesPerSecond;
  const double tflops = f.flops / seconds / 1e12;
  std::printf("%-14s %-44s %9.2f us [%.2f %.2f] %7.0f GB/s %5.1f %%", f.op.c_str(), f.shape.c_str(),
              f.timing.median_us, f.timing.p10_us, f.timing.p90_us, gbps, share * 100);
  if (f.flops > 0) std::printf(" %6.1f TFLOP/s", tflops);
  std::printf(
      "\n{\"op\": \"%s\", \"shape\": \"%s\", \"gpu\": \"%s\", \"driver\": %d, \"median_us\": %.3f, "
      "\"p10_us\": %.3f, \"p90_us\": %.3f, \"runs\": %d, \"bytes\": %.0f, \"gb_per_s\": %.1f, "
      "\"share_of_peak\": %.4f, \"tflops\": %.2f}\n",
      f.op.c_str(), f.shape.c_str(), gpu.name.c_str(), gpu.driver, f.timing.median_us,
      f.timing.p10_us, f.timing.p90_us, f.timing.runs, f.bytes, gbps, share, tflops);
}

}  // namespace tessera
