// Times LinearCuda on the linear layers of models: gemm_bench [group...]
//   rows    few-row kernel and library, t = 1 to 64, one shape of each size
//   shapes  t = 1 on every projection
//   chain   a token's linear layers of a model, one after the other; chain16 for 8 and 16 rows
//   prefill many rows
//   norm    RMSNorm and embedding
// No argument means all of them.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "benchmarks/kernels/bench_util.h"
#include "benchmarks/kernels/model_shapes.h"
#include "common/status_macros.h"
#include "kernels/embedding/embed.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/norm/rms_norm.h"

namespace tessera {
namespace {

constexpr int64_t kPoolBytes = int64_t{18} << 30;
constexpr int64_t kScratchBytes = int64_t{2} << 30;
constexpr int64_t kHalf = 2;

int64_t WeightBytes(const ModelShape& s) { return s.rows() * s.k * kHalf; }

struct Bench {
  BenchGpu gpu;
  char* weights;  // kPoolBytes, rotated over
  char* inputs;   // activations, biases, norm weights
  char* scratch;  // outputs, then the workspace
};

LinearArgs ArgsFor(const Bench& b, const ModelShape& s, int64_t t, const char* w) {
  return {.x = b.inputs,
          .w = w,
          .bias = s.bias ? b.inputs : nullptr,
          .residual = s.residual ? b.inputs : nullptr,
          .y = b.scratch,
          .norm_weight = s.normed ? b.inputs : nullptr,
          .norm_eps = 1e-6f,
          .gated = s.gated,
          .t = t,
          .n = s.n,
          .k = s.k,
          .dtype = DType::kBf16,
          .weight_dtype = DType::kBf16,
          .y_dtype = s.f32 ? DType::kF32 : DType::kBf16,
          .workspace = b.scratch + kScratchBytes / 2,
          .workspace_bytes = kScratchBytes / 2};
}

double Bytes(const ModelShape& s, int64_t t) {
  return static_cast<double>(WeightBytes(s) + t * s.k * kHalf + t * s.n * (s.f32 ? 4 : kHalf));
}

BenchFigure FigureOf(const char* op, const ModelShape& s, int64_t t, const Timing& timing) {
  return {.op = op,
          .shape = absl::StrCat(s.name, " t=", t, " n=", s.rows(), " k=", s.k),
          .bytes = Bytes(s, t),
          .flops = 2. * static_cast<double>(t * WeightBytes(s) / kHalf),
          .timing = timing};
}

absl::Status TimeLinear(const Bench& b, const ModelShape& s, int64_t t) {
  const int buffers = RotationCount(b.gpu, WeightBytes(s), kPoolBytes);
  ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, buffers, [&](int i) {
                     return LinearCuda(ArgsFor(b, s, t, b.weights + i * WeightBytes(s)),
                                       b.gpu.runtime->main_stream());
                   }));
  PrintBenchFigure(b.gpu, FigureOf("linear", s, t, timing));
  return absl::OkStatus();
}

// The bare product of the library, with nothing fused.
absl::Status TimeLibrary(const Bench& b, const ModelShape& s, int64_t t) {
  const int buffers = RotationCount(b.gpu, WeightBytes(s), kPoolBytes);
  ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, buffers, [&](int i) {
                     return CublasLtGemm({.x = b.inputs,
                                          .w = b.weights + i * WeightBytes(s),
                                          .y = b.scratch,
                                          .t = t,
                                          .n = s.rows(),
                                          .k = s.k,
                                          .dtype = DType::kBf16,
                                          .y_dtype = s.f32 ? DType::kF32 : DType::kBf16,
                                          .workspace = b.scratch + kScratchBytes / 2,
                                          .workspace_bytes = int64_t{32} << 20},
                                         b.gpu.runtime->main_stream().cuda);
                   }));
  PrintBenchFigure(b.gpu, FigureOf("cublaslt", s, t, timing));
  return absl::OkStatus();
}

// `layers` times the four projections, each with weights of its own, then the head.
absl::Status TimeChain(const Bench& b, const std::string& model, int layers, int64_t t) {
  std::vector<const ModelShape*> steps;
  for (int i = 0; i < layers; ++i)
    for (const char* part : {".qkv", ".o", ".gate_up", ".down"})
      steps.push_back(&ShapeNamed(model + part));
  if (model != "72b/2" && model != "72b/4" && model != "72b")
    steps.push_back(&ShapeNamed(model + ".head"));
  double bytes = 0;
  std::vector<LinearArgs> ops;
  int64_t at = 0;
  for (const ModelShape* s : steps) {
    if (at + WeightBytes(*s) > kPoolBytes) at = 0;
    ops.push_back(ArgsFor(b, *s, t, b.weights + at));
    at += WeightBytes(*s);
    bytes += Bytes(*s, t);
  }
  ASSIGN_OR_RETURN(Timing timing, TimeLaunches(b.gpu, 1, [&](int) {
                     for (const LinearArgs& op : ops)
                       RETURN_IF_ERROR(LinearCuda(op, b.gpu.runtime->main_stream()));
                     return absl::OkStatus();
                   }));
  PrintBenchFigure(b.gpu, {.op = "chain",
                           .shape = absl::StrCat(model, " t=", t, ", ", layers, " layers"),
                           .bytes = bytes,
                           .timing = timing});
  return absl::OkStatus();
}

absl::Status TimeNorms(const Bench& b) {
  const Stream& stream = b.gpu.runtime->main_stream();
  for (const int64_t t : {1, 64, 4096}) {
    const int64_t d = 3584;
    ASSIGN_OR_RETURN(const Timing norm, TimeLaunches(b.gpu, 20, [&](int i) {
                       return RmsNormCuda({.x = b.weights + i * t * d * kHalf,
                                           .weight = b.inputs,
                                           .y = b.scratch,
                                           .t = t,
                                           .d = d,
                                           .eps = 1e-6f,
                                           .dtype = DType::kBf16},
                                          stream);
                     }));
    PrintBenchFigure(b.gpu, {.op = "rms_norm",
                             .shape = absl::StrCat("t=", t, " d=", d),
                             .bytes = static_cast<double>(2 * t * d * kHalf),
                             .timing = norm});
  }
  return absl::OkStatus();
}

absl::Status RunGroup(const Bench& b, const std::string& group) {
  if (group == "rows") {
    for (const char* name : {"7b.o", "7b.qkv", "7b.gate_up", "7b.down", "72b.gate_up", "72b.down"})
      for (const int64_t t : {1, 2, 4, 8, 9, 16, 17, 32, 64}) {
        RETURN_IF_ERROR(TimeLinear(b, ShapeNamed(name), t));
        if (t != 2 && t != 4) RETURN_IF_ERROR(TimeLibrary(b, ShapeNamed(name), t));
      }
  } else if (group == "shapes") {
    for (const ModelShape& s : kModelShapes) RETURN_IF_ERROR(TimeLinear(b, s, 1));
  } else if (group == "library") {
    for (const ModelShape& s : kModelShapes) RETURN_IF_ERROR(TimeLibrary(b, s, 1));
  } else if (group == "chain" || group == "chain16") {
    for (const int64_t t :
         group == "chain" ? std::vector<int64_t>{1} : std::vector<int64_t>{8, 16}) {
      RETURN_IF_ERROR(TimeChain(b, "0.5b", 24, t));
      RETURN_IF_ERROR(TimeChain(b, "7b", 28, t));
      RETURN_IF_ERROR(TimeChain(b, "72b", 10, t));
      RETURN_IF_ERROR(TimeChain(b, "72b/2", 20, t));
      RETURN_IF_ERROR(TimeChain(b, "72b/4", 40, t));
    }
  } else if (group == "prefill") {
    for (const char* name : {"7b.qkv", "7b.o", "7b.gate_up", "7b.down"})
      for (const int64_t t : {128, 512, 4096}) RETURN_IF_ERROR(TimeLinear(b, ShapeNamed(name), t));
  } else if (group == "norm") {
    return TimeNorms(b);
  } else {
    return absl::InvalidArgumentError(absl::StrCat("no group ", group));
  }
  return absl::OkStatus();
}

absl::Status Main(std::vector<std::string> groups) {
  if (groups.empty()) groups = {"shapes", "library", "chain", "chain16", "rows", "prefill", "norm"};
  Bench b = {};
  ASSIGN_OR_RETURN(b.gpu, OpenBenchGpu());
  ASSIGN_OR_RETURN(b.weights, AllocateNoise(b.gpu, kPoolBytes, DType::kBf16));
  ASSIGN_OR_RETURN(b.inputs, AllocateNoise(b.gpu, kScratchBytes / 4, DType::kBf16));
  ASSIGN_OR_RETURN(b.scratch, AllocateNoise(b.gpu, kScratchBytes, DType::kBf16));
  PrintBenchHeader(b.gpu);
  for (const std::string& group : groups) RETURN_IF_ERROR(RunGroup(b, group));
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const absl::Status status = tessera::Main({argv + 1, argv + argc});
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
