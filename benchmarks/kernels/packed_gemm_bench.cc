// Times LinearCuda over packed weights on the projections of Qwen2 and Llama models:
// packed_gemm_bench [--match SHAPE] [group...]
//   m1      t = 1 on every projection, 4 and 8 bits, groups of 128, with cuBLASLt bf16 beside
//   rows    t = 1 to 64 on the projections of whole models, with cuBLASLt bf16 beside
//   batch   t = 8 and 16 without the norm, the batch kernel by every number of strips of a block
//   one:SHAPE:BITS:T:STRIPS   one of those, for profilers
//   formats zero points, groups of 32, 64 and a column, f16, on one shape of each size
//   chain   a token's linear layers of a model, one after the other, t = 1, 8 and 16
//   joined  the same at t = 1 in sequences of o, gate_up, down and the next qkv
// No group means m1, rows, formats and chain; --match keeps the shapes, or the chain's models, with
// SHAPE in their name. Bytes are those of values, scales and zeros.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "benchmarks/kernels/bench_util.h"
#include "benchmarks/kernels/model_shapes.h"
#include "common/align.h"
#include "common/status_macros.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_batch.h"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
namespace {

constexpr int64_t kPoolBytes = int64_t{6} << 30;
constexpr int64_t kScratchBytes = int64_t{512} << 20;
constexpr int64_t kAlign = 256;

struct Format {
  int bits = 4;
  int64_t group = 128;  // 0: all of k
  bool zeros = false;
  DType dtype = DType::kBf16;
};

struct Sizes {
  int64_t values, scales, zeros;
  int64_t total() const { return values + scales + zeros; }
};

Sizes SizesOf(const ModelShape& s, const Format& f) {
  const int64_t groups = f.group == 0 ? 1 : CeilDiv(s.k, f.group);
  return {.values = s.rows() * PackedRowBytes(f.bits, s.k),
          .scales = groups * s.rows() * 2,
          .zeros = f.zeros ? groups * PackedZeroStride(f.bits, s.rows()) : 0};
}

int64_t BufferBytes(const ModelShape& s, const Format& f) {
  const Sizes sizes = SizesOf(s, f);
  return AlignUp(sizes.values, kAlign) + AlignUp(sizes.scales, kAlign) +
         AlignUp(sizes.zeros, kAlign);
}

struct Bench {
  BenchGpu gpu;
  char* weights;  // kPoolBytes, rotated over
  char* inputs;   // activations, biases, norm weights
  char* scratch;  // outputs, then the workspace
  std::string match;

  bool Wanted(const std::string& name) const { return absl::StrContains(name, match); }
};

LinearArgs ArgsFor(const Bench& b, const ModelShape& s, const Format& f, int64_t t, const char* w) {
  const Sizes sizes = SizesOf(s, f);
  const char* scales = w + AlignUp(sizes.values, kAlign);
  return {.x = b.inputs,
          .packed = {.bits = f.bits,
                     .n = s.rows(),
                     .k = s.k,
                     .groups = f.group == 0 ? 1 : CeilDiv(s.k, f.group),
                     .group = f.group == 0 ? s.k : f.group,
                     .values = w,
                     .scales = scales,
                     .zeros = f.zeros ? scales + AlignUp(sizes.scales, kAlign) : nullptr},
          .bias = s.bias ? b.inputs : nullptr,
          .residual = s.residual ? b.inputs : nullptr,
          .y = b.scratch,
          .norm_weight = s.normed ? b.inputs : nullptr,
          .norm_eps = 1e-6f,
          .gated = s.gated,
          .t = t,
          .n = s.n,
          .k = s.k,
          .dtype = f.dtype,
          .weight_dtype = f.dtype,
          .y_dtype = f.dtype,
          .workspace = b.scratch + kScratchBytes / 2,
          .workspace_bytes = kScratchBytes / 2};
}

std::string Describe(const ModelShape& s, const Format& f, int64_t t) {
  return absl::StrCat(s.name, " t=", t, " w", f.bits, " g", f.group, f.zeros ? " zeros" : "",
                      f.dtype == DType::kF16 ? " f16" : "", " n=", s.rows(), " k=", s.k);
}

absl::Status TimePacked(const Bench& b, const ModelShape& s, const Format& f, int64_t t) {
  if (!b.Wanted(s.name)) return absl::OkStatus();
  const int64_t bytes = BufferBytes(s, f);
  const int buffers = RotationCount(b.gpu, bytes, kPoolBytes);
  ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, buffers, [&](int i) {
                     return LinearCuda(ArgsFor(b, s, f, t, b.weights + i * bytes),
                                       b.gpu.runtime->main_stream());
                   }));
  PrintBenchFigure(b.gpu, {.op = "packed",
                           .shape = Describe(s, f, t),
                           .bytes = static_cast<double>(SizesOf(s, f).total()),
                           .flops = 2. * static_cast<double>(t * s.rows() * s.k),
                           .timing = timing});
  return absl::OkStatus();
}

// The batch kernel without the norm: by every number of strips of a block, with a block for each
// multiprocessor and with as many for each tile; or by `only` strips, as planned.
absl::Status TimeBatch(const Bench& b, const ModelShape& s, const Format& f, int64_t t,
                       int only = 0) {
  if (!b.Wanted(s.name)) return absl::OkStatus();
  const int64_t bytes = BufferBytes(s, f);
  const int buffers = RotationCount(b.gpu, bytes, kPoolBytes);
  const GemvGpu gpu = {.sm_count = CurrentGpu().sm_count,
                       .shared_bytes = CurrentGpu().shared_bytes};
  const auto args = [&](int i) {
    LinearArgs a = ArgsFor(b, s, f, t, b.weights + i * bytes);
    a.norm_weight = nullptr;
    return a;
  };
  const PackedGemvProblem problem = PackedGemvProblemOf(args(0));
  for (const int strips : {1, 2, 4, 8, 16}) {
    if (only > 0 && strips != only) continue;
    const PackedBatchPlan planned = PlanPackedBatch(gpu, problem, strips);
    const int all = std::min(gpu.sm_count, planned.tiles * planned.rounds);
    const int parts = std::min(gpu.sm_count / planned.tiles, planned.rounds);
    std::vector<int> counts = {only > 0 ? planned.blocks : all};
    if (only == 0 && parts > 0 && parts * planned.tiles != all)
      counts.push_back(parts * planned.tiles);
    for (const int blocks : counts) {
      const PackedBatchPlan plan = PlanPackedBatch(gpu, problem, strips, blocks);
      ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, buffers, [&](int i) {
                         const LinearArgs a = args(i);
                         return LaunchPackedBatch(a, plan, SplitLinearWorkspace(a),
                                                  b.gpu.runtime->main_stream().cuda);
                       }));
      PrintBenchFigure(b.gpu,
                       {.op = "batch",
                        .shape = absl::StrCat(Describe(s, f, t), " strips=", strips,
                                              " tiles=", plan.tiles, " rounds=", plan.rounds,
                                              " blocks=", plan.blocks, " stages=", plan.stages),
                        .bytes = static_cast<double>(SizesOf(s, f).total()),
                        .flops = 2. * static_cast<double>(t * s.rows() * s.k),
                        .timing = timing});
    }
  }
  return absl::OkStatus();
}

// The bare product of the library with bf16 weights, with nothing fused.
absl::Status TimeLibrary(const Bench& b, const ModelShape& s, int64_t t) {
  if (!b.Wanted(s.name)) return absl::OkStatus();
  const int64_t bytes = s.rows() * s.k * 2;
  const int buffers = RotationCount(b.gpu, bytes, kPoolBytes);
  ASSIGN_OR_RETURN(const Timing timing, TimeLaunches(b.gpu, buffers, [&](int i) {
                     return CublasLtGemm({.x = b.inputs,
                                          .w = b.weights + i * bytes,
                                          .y = b.scratch,
                                          .t = t,
                                          .n = s.rows(),
                                          .k = s.k,
                                          .workspace = b.scratch + kScratchBytes / 2,
                                          .workspace_bytes = int64_t{32} << 20},
                                         b.gpu.runtime->main_stream().cuda);
                   }));
  PrintBenchFigure(b.gpu, {.op = "cublaslt bf16",
                           .shape = absl::StrCat(s.name, " t=", t, " n=", s.rows(), " k=", s.k),
                           .bytes = static_cast<double>(bytes),
                           .flops = 2. * static_cast<double>(t * s.rows() * s.k),
                           .timing = timing});
  return absl::OkStatus();
}

// `layers` times the four projections, each with weights of its own.
absl::Status TimeChain(const Bench& b, const std::string& model, int layers, const Format& f,
                       int64_t t, bool joined = false) {
  if (!b.Wanted(model)) return absl::OkStatus();
  double bytes = 0;
  std::vector<LinearArgs> ops;
  int64_t at = 0;
  for (int i = 0; i < layers; ++i)
    for (const char* part : {".qkv", ".o", ".gate_up", ".down"}) {
      const ModelShape& s = ShapeNamed(model + part);
      if (at + BufferBytes(s, f) > kPoolBytes) at = 0;
      ops.push_back(ArgsFor(b, s, f, t, b.weights + at));
      ops.back().y = b.scratch + static_cast<int64_t>(ops.size() % 4) * (kScratchBytes / 8);
      if (ops.size() > 1) ops.back().x = ops[ops.size() - 2].y;
      at += BufferBytes(s, f);
      bytes += static_cast<double>(SizesOf(s, f).total());
    }
  ASSIGN_OR_RETURN(
      const Timing timing, TimeLaunches(b.gpu, 1, [&](int) {
        const Stream& stream = b.gpu.runtime->main_stream();
        if (!joined) {
          for (const LinearArgs& op : ops) RETURN_IF_ERROR(LinearCuda(op, stream));
          return absl::OkStatus();
        }
        RETURN_IF_ERROR(LinearCuda(ops.front(), stream));
        for (size_t i = 1; i < ops.size(); i += 4)
          RETURN_IF_ERROR(LinearSequenceCuda(
              {.products = &ops[i], .count = static_cast<int>(std::min<size_t>(4, ops.size() - i))},
              stream));
        return absl::OkStatus();
      }));
  PrintBenchFigure(b.gpu,
                   {.op = joined ? "packed joined" : "packed chain",
                    .shape = absl::StrCat(model, " t=", t, " w", f.bits, ", ", layers, " layers"),
                    .bytes = bytes,
                    .timing = timing});
  return absl::OkStatus();
}

// "one:SHAPE:BITS:T:STRIPS", for profilers.
absl::Status TimeOne(const Bench& b, const std::string& group) {
  const std::vector<std::string> part = absl::StrSplit(group, ':');
  int bits = 0, t = 0, strips = 0;
  const bool numbers = part.size() == 5 && absl::SimpleAtoi(part[2], &bits) &&
                       absl::SimpleAtoi(part[3], &t) && absl::SimpleAtoi(part[4], &strips);
  const bool known = numbers && (bits == 4 || bits == 8) && t >= 2 && t <= kPackedBatchRows &&
                     (strips & (strips - 1)) == 0 && strips > 0 && strips <= kPackedBatchWarps &&
                     std::any_of(std::begin(kModelShapes), std::end(kModelShapes),
                                 [&](const ModelShape& s) { return s.name == part[1]; });
  if (!known)
    return absl::InvalidArgumentError(absl::StrCat(
        group, ": not one:SHAPE:BITS:T:STRIPS of a shape in model_shapes.h, 4 or 8 bits, t = 2 to ",
        kPackedBatchRows, " and 1, 2, 4, 8 or 16 strips"));
  return TimeBatch(b, ShapeNamed(part[1]), {.bits = bits}, t, strips);
}

absl::Status RunGroup(const Bench& b, const std::string& group) {
  if (group == "m1") {
    for (const ModelShape& s : kModelShapes) {
      if (s.f32) continue;  // heads keep 16 bits
      for (const int bits : {4, 8}) RETURN_IF_ERROR(TimePacked(b, s, {.bits = bits}, 1));
      RETURN_IF_ERROR(TimeLibrary(b, s, 1));
    }
  } else if (group == "rows") {
    for (const char* name :
         {"7b.o", "7b.qkv", "7b.gate_up", "7b.down", "8b.o", "8b.qkv", "8b.gate_up", "8b.down",
          "72b.o", "72b.qkv", "72b.gate_up", "72b.down"})
      for (const int64_t t : {1, 2, 4, 8, 16, 32, 64}) {
        for (const int bits : {4, 8}) {
          const absl::Status status = TimePacked(b, ShapeNamed(name), {.bits = bits}, t);
          if (!absl::IsUnimplemented(status)) RETURN_IF_ERROR(status);
        }
        RETURN_IF_ERROR(TimeLibrary(b, ShapeNamed(name), t));
      }
  } else if (group == "batch") {
    for (const char* name : {"7b.o", "7b.qkv", "7b.gate_up", "7b.down", "72b.o", "72b.gate_up"})
      for (const int64_t t : {8, 16})
        for (const int bits : {4, 8})
          RETURN_IF_ERROR(TimeBatch(b, ShapeNamed(name), {.bits = bits}, t));
  } else if (absl::StartsWith(group, "one:")) {
    RETURN_IF_ERROR(TimeOne(b, group));
  } else if (group == "formats") {
    for (const char* name : {"7b.qkv", "7b.down", "72b.gate_up"})
      for (const int bits : {4, 8}) {
        RETURN_IF_ERROR(TimePacked(b, ShapeNamed(name), {.bits = bits, .zeros = true}, 1));
        for (const int64_t size : {0, 32, 64})
          RETURN_IF_ERROR(TimePacked(b, ShapeNamed(name), {.bits = bits, .group = size}, 1));
        RETURN_IF_ERROR(TimePacked(b, ShapeNamed(name), {.bits = bits, .dtype = DType::kF16}, 1));
      }
  } else if (group == "chain") {
    for (const int bits : {4, 8})
      for (const int64_t t : {1, 8, 16}) {
        RETURN_IF_ERROR(TimeChain(b, "0.5b", 24, {.bits = bits}, t));
        RETURN_IF_ERROR(TimeChain(b, "7b", 28, {.bits = bits}, t));
        RETURN_IF_ERROR(TimeChain(b, "8b", 32, {.bits = bits}, t));
        RETURN_IF_ERROR(TimeChain(b, "72b", 10, {.bits = bits}, t));
        RETURN_IF_ERROR(TimeChain(b, "72b/2", 20, {.bits = bits}, t));
      }
  } else if (group == "joined") {
    for (const int bits : {4, 8})
      for (const auto& [model, layers] :
           {std::pair{"7b", 28}, {"8b", 32}, {"72b", 10}, {"72b/2", 20}})
        RETURN_IF_ERROR(TimeChain(b, model, layers, {.bits = bits}, 1, true));
  } else {
    return absl::InvalidArgumentError(absl::StrCat("no group ", group));
  }
  return absl::OkStatus();
}

absl::Status Main(std::vector<std::string> groups) {
  Bench b = {};
  if (groups.size() >= 2 && groups[0] == "--match") {
    b.match = groups[1];
    groups.erase(groups.begin(), groups.begin() + 2);
  }
  if (groups.empty()) groups = {"m1", "rows", "formats", "chain"};
  ASSIGN_OR_RETURN(b.gpu, OpenBenchGpu());
  ASSIGN_OR_RETURN(b.weights, AllocateNoise(b.gpu, kPoolBytes, DType::kBf16));
  ASSIGN_OR_RETURN(b.inputs, AllocateNoise(b.gpu, kScratchBytes, DType::kBf16));
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
