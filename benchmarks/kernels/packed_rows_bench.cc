// Times the many-row product with packed weights beside cuBLASLt's with bf16 ones:
//   packed_rows_bench table [max_t]
//     every matrix, t = 17 to max_t (4096), as LaunchPackedGemm runs it
//   packed_rows_bench ways [max_t]
//     every tile, and by parts, on one matrix of each size
//   packed_rows_bench one MATRIX BITS T ROWS TOKENS
//     one tile (0 0: the planner's), for profilers
// A line for people: matrix, bits, t, us, TFLOP/s, % of 805, packed bytes in % of 4.50 TB/s,
// cuBLASLt us over ours, the way: tile, shared tiles and blocks, and the planner's estimate. Then
// one of JSON.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "benchmarks/kernels/bench_util.h"
#include "benchmarks/kernels/model_shapes.h"
#include "common/status_macros.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemm.h"

namespace tessera {
namespace {

constexpr int64_t kPoolBytes = int64_t{3} << 30;
constexpr int64_t kInputBytes = int64_t{640} << 20;
constexpr int64_t kScratchBytes = int64_t{1} << 30;
constexpr int64_t kLibraryBytes = int64_t{72} << 20;
constexpr double kPeakFlops = 805e12;
constexpr int64_t kGroup = 128;

// Those of 7 billion parameters and more.
std::vector<ModelShape> Matrices() {
  std::vector<ModelShape> all;
  for (const ModelShape& s : kModelShapes)
    if (!s.f32 && !absl::StartsWith(s.name, "0.5b") && !absl::StartsWith(s.name, "72b/4"))
      all.push_back(s);
  return all;
}

struct Bench {
  BenchGpu gpu;
  char *weights, *inputs, *scratch;
};

int64_t ValueBytes(const ModelShape& m, int bits) { return m.rows() * PackedRowBytes(bits, m.k); }
int64_t ScaleBytes(const ModelShape& m) {
  return AlignUp(CeilDiv(m.k, kGroup) * m.rows() * 2, 256);
}
int64_t PackedBytes(const ModelShape& m, int bits) { return ValueBytes(m, bits) + ScaleBytes(m); }

// Buffers past L2 for few rows; for many, time does not depend on where weights come from.
int Rotation(const Bench& b, int64_t bytes, int64_t t) {
  const int most = t >= 1024 ? 2 : t > 128 ? 4 : 64;
  return std::min(RotationCount(b.gpu, bytes, kPoolBytes), most);
}

LinearArgs ArgsFor(const Bench& b, const ModelShape& m, int bits, int64_t t, int buffer) {
  const char* const base = b.weights + buffer * PackedBytes(m, bits);
  LinearArgs a = {.x = b.inputs,
                  .y = b.scratch + kLibraryBytes,
                  .gated = m.gated,
                  .t = t,
                  .n = m.gated ? m.rows() / 2 : m.rows(),
                  .k = m.k,
                  .dtype = DType::kBf16,
                  .weight_dtype = DType::kBf16,
                  .y_dtype = DType::kBf16};
  a.packed = {.bits = bits,
              .n = m.rows(),
              .k = m.k,
              .groups = CeilDiv(m.k, kGroup),
              .group = kGroup,
              .values = base + ScaleBytes(m),
              .scales = base};
  return a;
}

absl::StatusOr<double> TimeWay(const Bench& b, const ModelShape& m, int bits, int64_t t,
                               const auto& launch) {
  const LinearWorkspace parts = {.library = b.scratch,
                                 .library_bytes = kLibraryBytes,
                                 .ungated = b.scratch + kLibraryBytes + kScratchBytes / 4};
  ASSIGN_OR_RETURN(
      const Timing timing, TimeLaunches(b.gpu, Rotation(b, PackedBytes(m, bits), t), [&](int i) {
        return launch(ArgsFor(b, m, bits, t, i), parts, b.gpu.runtime->main_stream().cuda);
      }));
  return timing.median_us;
}

absl::StatusOr<double> TimeLibrary(const Bench& b, const ModelShape& m, int64_t t) {
  const int64_t bytes = m.rows() * m.k * 2;
  ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, Rotation(b, bytes, t), [&](int i) {
                     return CublasLtGemm({.x = b.inputs,
                                          .w = b.weights + i * bytes,
                                          .y = b.scratch + kLibraryBytes,
                                          .t = t,
                                          .n = m.rows(),
                                          .k = m.k,
                                          .workspace = b.scratch,
                                          .workspace_bytes = kLibraryBytes},
                                         b.gpu.runtime->main_stream().cuda);
                   }));
  return timing.median_us;
}

absl::Status LaunchByPlan(const PackedGemmPlan& plan, const LinearArgs& args,
                          const LinearWorkspace& workspace, cudaStream_t stream) {
  return LaunchPackedGemmByPlan(args, plan, workspace, stream);
}

struct Figure {
  ModelShape matrix;
  int bits;
  int64_t t;
  double us, library_us, estimate_us;
  std::string way;
};

void Print(const Bench& b, const Figure& f) {
  const double tflops = 2e-6 * static_cast<double>(f.matrix.rows() * f.matrix.k * f.t) / f.us;
  const double share =
      static_cast<double>(PackedBytes(f.matrix, f.bits)) / f.us * 1e6 / kReadBytesPerSecond;
  std::printf("%-13s W%d %5lld %8.1f us %6.1f TF %5.1f%%F %5.1f%%B %5.2fx | %s, estimate %.1f us\n",
              f.matrix.name, f.bits, static_cast<long long>(f.t), f.us, tflops,
              tflops * 1e14 / kPeakFlops, share * 100, f.library_us / f.us, f.way.c_str(),
              f.estimate_us);
  std::printf(
      "{\"op\": \"packed_rows\", \"shape\": \"%s\", \"n\": %lld, \"k\": %lld, \"bits\": %d, \"t\": "
      "%lld, \"gpu\": \"%s\", \"driver\": %d, \"median_us\": %.2f, \"cublaslt_bf16_us\": %.2f, "
      "\"tflops\": %.1f, \"share_of_read_peak\": %.4f, \"way\": \"%s\"}\n",
      f.matrix.name, static_cast<long long>(f.matrix.rows()), static_cast<long long>(f.matrix.k),
      f.bits, static_cast<long long>(f.t), b.gpu.name.c_str(), b.gpu.driver, f.us, f.library_us,
      tflops, share, f.way.c_str());
  std::fflush(stdout);
}

std::string Describe(const PackedGemmPlan& p) {
  return absl::StrCat(p.tile.rows, "x", p.tile.tokens, " ", p.shared_tiles, "/", p.tiles(), " ",
                      p.shared_blocks);
}

PackedGemmShape ShapeOf(const ModelShape& m, int bits, int64_t t) {
  return {.bits = bits, .t = t, .rows = m.rows(), .k = m.k, .gated = m.gated};
}

absl::Status Table(const Bench& b, int64_t max_t) {
  for (const int64_t t : {17, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096}) {
    if (t > max_t) break;
    for (const ModelShape& m : Matrices()) {
      ASSIGN_OR_RETURN(const double library, TimeLibrary(b, m, t));
      for (const int bits : {4, 8}) {
        const PackedGemmPlan plan =
            PlanPackedGemm(b.gpu.sm_count, ShapeOf(m, bits, t), kLibraryBytes);
        const PackedPartsPlan parts =
            PlanPackedParts(b.gpu.sm_count, ShapeOf(m, bits, t), kLibraryBytes * 7 / 8);
        const bool by_parts = t >= kPackedPartsMinRows && parts.us < plan.us;
        ASSIGN_OR_RETURN(const double us, TimeWay(b, m, bits, t, LaunchPackedGemm));
        Print(b, {m, bits, t, us, library, by_parts ? parts.us : plan.us,
                  by_parts ? absl::StrCat("parts of ", parts.rows) : Describe(plan)});
      }
    }
  }
  return absl::OkStatus();
}

absl::Status WaysOf(const Bench& b, const ModelShape& m, int bits, int64_t t, double library) {
  for (const PackedTile tile : kPackedTiles) {
    if (tile.tokens >= 2 * t || (tile.tokens < 128 && tile.tokens * 4 < t)) continue;
    const PackedGemmPlan plan =
        PlanPackedTile(b.gpu.sm_count, ShapeOf(m, bits, t), tile, kLibraryBytes);
    ASSIGN_OR_RETURN(const double us, TimeWay(b, m, bits, t, [&](const auto&... args) {
                       return LaunchByPlan(plan, args...);
                     }));
    Print(b, {m, bits, t, us, library, plan.us, Describe(plan)});
  }
  if (t < kPackedPartsMinRows) return absl::OkStatus();
  const PackedPartsPlan parts =
      PlanPackedParts(b.gpu.sm_count, ShapeOf(m, bits, t), kLibraryBytes * 7 / 8);
  ASSIGN_OR_RETURN(const double us, TimeWay(b, m, bits, t, LaunchPackedGemmByParts));
  Print(b, {m, bits, t, us, library, parts.us, absl::StrCat("parts of ", parts.rows)});
  return absl::OkStatus();
}

absl::Status Ways(const Bench& b, int64_t max_t) {
  for (const int64_t t : {16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
    if (t > max_t) break;
    for (const char* name : {"7b.o", "7b.qkv", "7b.gate_up", "7b.down", "72b.o", "72b.down"}) {
      const ModelShape& m = ShapeNamed(name);
      ASSIGN_OR_RETURN(const double library, TimeLibrary(b, m, t));
      for (const int bits : {4, 8}) RETURN_IF_ERROR(WaysOf(b, m, bits, t, library));
    }
  }
  return absl::OkStatus();
}

absl::Status One(const Bench& b, const std::string& name, int bits, int64_t t, PackedTile tile) {
  for (const ModelShape& m : Matrices()) {
    if (m.name != name) continue;
    const PackedGemmShape shape = ShapeOf(m, bits, t);
    const PackedGemmPlan plan = tile.rows == 0
                                    ? PlanPackedGemm(b.gpu.sm_count, shape, kLibraryBytes)
                                    : PlanPackedTile(b.gpu.sm_count, shape, tile, kLibraryBytes);
    ASSIGN_OR_RETURN(const double us, TimeWay(b, m, bits, t, [&](const auto&... args) {
                       return LaunchByPlan(plan, args...);
                     }));
    Print(b, {m, bits, t, us, 0, plan.us, Describe(plan)});
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("no matrix ", name));
}

absl::Status Main(const std::vector<std::string>& args) {
  const std::string mode = args.empty() ? "table" : args[0];
  const auto number = [&](size_t i, int64_t otherwise) {
    return i < args.size() ? std::atoll(args[i].c_str()) : otherwise;
  };
  Bench b = {};
  ASSIGN_OR_RETURN(b.gpu, OpenBenchGpu());
  ASSIGN_OR_RETURN(b.weights, AllocateNoise(b.gpu, kPoolBytes, DType::kF16));
  ASSIGN_OR_RETURN(b.inputs, AllocateNoise(b.gpu, kInputBytes, DType::kBf16));
  ASSIGN_OR_RETURN(b.scratch, AllocateNoise(b.gpu, kScratchBytes, DType::kBf16));
  PrintBenchHeader(b.gpu);
  if (mode == "table") return Table(b, number(1, 4096));
  if (mode == "ways") return Ways(b, number(1, 4096));
  if (mode == "one" && args.size() == 6)
    return One(b, args[1], static_cast<int>(number(2, 4)), number(3, 64),
               {static_cast<int>(number(4, 0)), static_cast<int>(number(5, 0))});
  return absl::InvalidArgumentError(
      "packed_rows_bench table|ways [max_t], or one MATRIX BITS T ROWS TOKENS");
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const absl::Status status = tessera::Main({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
