// How kernel benchmarks time and report: CUDA graphs of back-to-back launches over rotating
// buffers, the median of at least 30 replays, one text line and one JSON line a figure.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "common/dtype.h"
#include "kernels/runtime/runtime.h"

namespace tessera {

inline constexpr double kReadBytesPerSecond = 4.50e12;  // read-only stream on an H200, measured
inline constexpr int kTimedRuns = 31;

struct BenchGpu {
  std::unique_ptr<Runtime> runtime;
  std::string name;
  int driver = 0;  // CUDA version the driver serves, 13000 for 13.0
  int sm_count = 0;
  int64_t l2_bytes = 0;
};

// The first GPU. kFailedPrecondition: there is none.
absl::StatusOr<BenchGpu> OpenBenchGpu();

// Device memory holding small random numbers of a 16-bit float type (or raw bits of at most 1.0 in
// magnitude when read as one): never zeros, which run faster. Freed with the runtime's context.
absl::StatusOr<char*> AllocateNoise(const BenchGpu& gpu, int64_t bytes, DType dtype);

// Buffers of `bytes` to rotate over so that none is still in L2 when its turn comes again, within
// `pool_bytes`; at least 1, at most 64.
int RotationCount(const BenchGpu& gpu, int64_t bytes, int64_t pool_bytes);

struct Timing {
  double median_us = 0, p10_us = 0, p90_us = 0;  // of one launch
  int runs = 0;
};

// Captures enqueue(0) ... enqueue(launches - 1) in one graph on the main stream, replays it
// kTimedRuns times after three warm-ups, and divides each replay's time by `launches`.
absl::StatusOr<Timing> TimeLaunches(const BenchGpu& gpu, int launches,
                                    const std::function<absl::Status(int)>& enqueue);

struct BenchFigure {
  std::string op, shape;  // "linear", "7b.qkv t=1 n=4608 k=3584 bf16"
  double bytes = 0;       // device memory traffic that a launch cannot avoid
  double flops = 0;       // 0 when not of interest
  Timing timing;
};

// Prints the header that names GPU and driver, once; then a line for people and one of JSON each.
void PrintBenchHeader(const BenchGpu& gpu);
void PrintBenchFigure(const BenchGpu& gpu, const BenchFigure& figure);

}  // namespace tessera
