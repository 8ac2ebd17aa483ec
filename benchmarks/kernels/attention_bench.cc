// Times paged attention: decode against the bytes of the context, prefill against its products, and
// "in place", what a decode attention adds between the projections around it; "order", what writing
// an output in the order of an act-order matrix adds to attention and to the norm.
//   attention_bench [substring of the shapes to run]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "benchmarks/kernels/bench_util.h"
#include "common/status_macros.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/gemm/column_places.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope_kv_write.h"

namespace tessera {
namespace {

constexpr int64_t kPoolBytes = int64_t{12} << 30;  // of one cache over all rotations
constexpr int kLaunches = 28;                      // at least, in a graph: the layers of a 7B

struct AttentionBench {
  std::string name;
  int64_t h, g, e;
  std::vector<int64_t> contexts;
  int64_t rows = 1;  // of each sequence, the last of its context
  int64_t block_size = 64;
  bool ordered = false;  // the output goes to the columns of an act-order matrix
};

struct DeviceStep {
  const int32_t *block_table, *seq_slot, *q_start, *context, *positions;
  const int64_t* kv_index;
  int64_t blocks = 0, max_blocks = 0, max_context = 0;
};

template <typename T>
absl::StatusOr<const T*> Upload(const BenchGpu& gpu, const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  ASSIGN_OR_RETURN(void* const memory, gpu.runtime->AllocateDevice(bytes));
  const Stream& stream = gpu.runtime->main_stream();
  RETURN_IF_ERROR(gpu.runtime->Copy(memory, values.data(), bytes, stream));
  RETURN_IF_ERROR(gpu.runtime->Synchronize(stream));
  return static_cast<const T*>(memory);
}

// A random order of columns without gaps.
std::vector<int32_t> ShuffledPlaces(int64_t columns) {
  std::vector<int32_t> places(static_cast<size_t>(columns));
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), std::mt19937(2));
  for (int32_t& place : places) place = EncodePlace(place, 0);
  return places;
}

// Blocks in random order, as after some hours of serving.
absl::StatusOr<DeviceStep> UploadStep(const BenchGpu& gpu, const AttentionBench& b) {
  DeviceStep step;
  for (int64_t context : b.contexts) {
    step.max_context = std::max(step.max_context, context);
    step.blocks += (context + b.block_size - 1) / b.block_size;
  }
  step.max_blocks = (step.max_context + b.block_size - 1) / b.block_size;
  std::vector<int32_t> order(static_cast<size_t>(step.blocks));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  const size_t s = b.contexts.size();
  std::vector<int32_t> table(s * static_cast<size_t>(step.max_blocks)), slot(s), q_start(s + 1),
      context(s), positions(s);
  std::vector<int64_t> kv_index(s);
  size_t next = 0;
  for (size_t i = 0; i < s; ++i) {
    slot[i] = static_cast<int32_t>(i);
    context[i] = static_cast<int32_t>(b.contexts[i]);
    q_start[i + 1] = q_start[i] + static_cast<int32_t>(b.rows);
    for (int64_t j = 0; j * b.block_size < b.contexts[i]; ++j)
      table[i * static_cast<size_t>(step.max_blocks) + static_cast<size_t>(j)] = order[next++];
    positions[i] = context[i] - 1;
    kv_index[i] = order[next - 1] * b.block_size + positions[i] % b.block_size;
  }
  ASSIGN_OR_RETURN(step.block_table, Upload(gpu, table));
  ASSIGN_OR_RETURN(step.seq_slot, Upload(gpu, slot));
  ASSIGN_OR_RETURN(step.q_start, Upload(gpu, q_start));
  ASSIGN_OR_RETURN(step.context, Upload(gpu, context));
  ASSIGN_OR_RETURN(step.positions, Upload(gpu, positions));
  ASSIGN_OR_RETURN(step.kv_index, Upload(gpu, kv_index));
  return step;
}

// Arguments of a step, with its arrays on the device, and what frees them.
struct BenchStep {
  PagedAttentionArgs args;
  std::vector<void*> memory;
  int64_t cache_bytes = 0;
};

absl::StatusOr<BenchStep> MakeStep(const BenchGpu& gpu, const AttentionBench& b) {
  ASSIGN_OR_RETURN(const DeviceStep step, UploadStep(gpu, b));
  const auto s = static_cast<int64_t>(b.contexts.size());
  const int64_t t = s * b.rows;
  BenchStep out;
  out.cache_bytes = step.blocks * b.block_size * b.g * b.e * 2;
  if (out.cache_bytes > kPoolBytes) return absl::ResourceExhaustedError("cache above the pool");
  PagedAttentionArgs& a = out.args;
  const int64_t workspace_bytes =
      PagedAttentionWorkspaceBytes(Device::kCuda, gpu.sm_count, t, s, b.h, b.g, b.e);
  ASSIGN_OR_RETURN(a.q, AllocateNoise(gpu, t * b.h * b.e * 2, DType::kBf16));
  ASSIGN_OR_RETURN(char* const qkv,
                   AllocateNoise(gpu, t * (b.h + 2 * b.g) * b.e * 2, DType::kBf16));
  ASSIGN_OR_RETURN(a.out, gpu.runtime->AllocateDevice(t * b.h * b.e * 2));
  ASSIGN_OR_RETURN(a.workspace, gpu.runtime->AllocateDevice(workspace_bytes));
  ASSIGN_OR_RETURN(a.rotation.inv_freq,
                   Upload(gpu, std::vector<float>(static_cast<size_t>(b.e) / 2, 0.5f)));
  out.memory = {a.q, qkv, a.out, a.workspace};
  a.qkv = qkv;
  if (b.ordered) {
    ASSIGN_OR_RETURN(a.out_order.places, Upload(gpu, ShuffledPlaces(b.h * b.e)));
    a.out_order.width = b.h * b.e;
  }
  a.block_table = step.block_table;
  a.seq_slot = step.seq_slot;
  a.q_start = step.q_start;
  a.context = step.context;
  a.positions = step.positions;
  a.kv_index = step.kv_index;
  a.reads = CacheReads::kEarly;  // as in every layer but the first
  a.t = t;
  a.s = s;
  a.h = b.h;
  a.g = b.g;
  a.e = b.e;
  a.decode_sequences = b.rows == 1 ? s : 0;
  a.block_size = b.block_size;
  a.max_blocks = step.max_blocks;
  a.blocks = step.blocks;
  a.max_query = b.rows;
  a.max_context = step.max_context;
  a.scale = 1.f / std::sqrt(static_cast<float>(b.e));
  a.dtype = DType::kBf16;
  a.workspace_bytes = workspace_bytes;
  return out;
}

absl::Status RunBench(const BenchGpu& gpu, const AttentionBench& b, char* k_pool, char* v_pool) {
  ASSIGN_OR_RETURN(BenchStep step, MakeStep(gpu, b));
  PagedAttentionArgs& a = step.args;
  const int rotation = RotationCount(gpu, 2 * step.cache_bytes, 2 * kPoolBytes);
  const int launches = b.rows == 1 ? std::max(rotation, kLaunches) : 4;
  BenchFigure figure{.op = "attention", .shape = b.name};
  ASSIGN_OR_RETURN(figure.timing, TimeLaunches(gpu, launches, [&](int i) {
                     a.k_cache = k_pool + i % rotation * step.cache_bytes;
                     a.v_cache = v_pool + i % rotation * step.cache_bytes;
                     return PagedAttentionCuda(a, gpu.runtime->main_stream());
                   }));
  const auto tokens =
      static_cast<double>(std::accumulate(b.contexts.begin(), b.contexts.end(), int64_t{0}));
  figure.bytes =
      tokens * static_cast<double>(b.g * b.e) * 4 + 4 * static_cast<double>(a.t * b.h * b.e);
  if (b.rows > 1) {
    const auto rows = static_cast<double>(b.rows);
    double pairs = 0;
    for (int64_t context : b.contexts)
      pairs += rows * static_cast<double>(context) - rows * (rows - 1) / 2;
    figure.flops = 4 * pairs * static_cast<double>(b.h * b.e);
  }
  PrintBenchFigure(gpu, figure);
  for (void* memory : step.memory) gpu.runtime->FreeDevice(memory);
  return absl::OkStatus();
}

// Qwen2-7B: the projection to q, k and v, attention, the output projection; per layer, with
// attention and without.
absl::Status RunLayerBench(const BenchGpu& gpu, int64_t sequences, int64_t context, char* weights,
                           char* caches) {
  constexpr int64_t kD = 3584, kQkv = 4608, kWeightBytes = (kQkv + kD) * kD * 2;
  const auto s = static_cast<size_t>(sequences);
  ASSIGN_OR_RETURN(BenchStep step,
                   MakeStep(gpu, {"", 28, 4, 128, std::vector<int64_t>(s, context)}));
  PagedAttentionArgs& a = step.args;
  ASSIGN_OR_RETURN(char* const hidden, AllocateNoise(gpu, sequences * kD * 2, DType::kBf16));
  const int64_t workspace_bytes =
      LinearWorkspaceBytes(Device::kCuda, gpu.sm_count, sequences, kQkv, kD, false, true);
  ASSIGN_OR_RETURN(void* const workspace, gpu.runtime->AllocateDevice(workspace_bytes));
  const Stream& stream = gpu.runtime->main_stream();
  const auto layer = [&](int i, bool attend) -> absl::Status {
    LinearArgs linear{.x = hidden,
                      .w = weights + i * kWeightBytes,
                      .bias = weights,
                      .y = const_cast<void*>(a.qkv),
                      .norm_weight = weights,
                      .norm_eps = 1e-6f,
                      .t = sequences,
                      .n = kQkv,
                      .k = kD,
                      .dtype = DType::kBf16,
                      .weight_dtype = DType::kBf16,
                      .y_dtype = DType::kBf16,
                      .workspace = workspace,
                      .workspace_bytes = workspace_bytes};
    RETURN_IF_ERROR(LinearCuda(linear, stream));
    a.k_cache = caches + 2 * i * step.cache_bytes;
    a.v_cache = caches + (2 * i + 1) * step.cache_bytes;
    if (attend) RETURN_IF_ERROR(PagedAttentionCuda(a, stream));
    linear.x = a.out;
    linear.w = weights + i * kWeightBytes + kQkv * kD * 2;
    linear.bias = nullptr;
    linear.norm_weight = nullptr;
    linear.residual = hidden;
    linear.y = hidden;
    linear.n = kD;
    return LinearCuda(linear, stream);
  };
  for (const bool attend : {true, false}) {
    BenchFigure figure{.op = attend ? "in place" : "without",
                       .shape = absl::StrCat("7b qkv+attn+o c=", context, " b=", sequences)};
    figure.bytes = static_cast<double>(kWeightBytes) +
                   (attend ? 2 * static_cast<double>(step.cache_bytes) : 0);
    ASSIGN_OR_RETURN(figure.timing,
                     TimeLaunches(gpu, kLaunches, [&](int i) { return layer(i, attend); }));
    PrintBenchFigure(gpu, figure);
  }
  for (void* memory : step.memory) gpu.runtime->FreeDevice(memory);
  gpu.runtime->FreeDevice(hidden);
  gpu.runtime->FreeDevice(workspace);
  return absl::OkStatus();
}

absl::Status RunRopeBench(const BenchGpu& gpu, int64_t t, char* k_pool, char* v_pool) {
  constexpr int64_t kH = 28, kG = 4, kE = 128, kBlock = 64;
  const int64_t qkv_bytes = t * (kH + 2 * kG) * kE * 2;
  ASSIGN_OR_RETURN(char* const qkv, AllocateNoise(gpu, qkv_bytes, DType::kBf16));
  ASSIGN_OR_RETURN(void* const q, gpu.runtime->AllocateDevice(t * kH * kE * 2));
  std::vector<int32_t> positions(static_cast<size_t>(t));
  std::vector<int64_t> index(static_cast<size_t>(t));
  for (size_t i = 0; i < positions.size(); ++i) {
    positions[i] = static_cast<int32_t>(i) + 1000;
    index[i] = static_cast<int64_t>(i);
  }
  const std::vector<float> frequencies(kE / 2, 0.5f);
  RopeKvWriteArgs a;
  a.qkv = qkv;
  ASSIGN_OR_RETURN(a.positions, Upload(gpu, positions));
  ASSIGN_OR_RETURN(a.kv_index, Upload(gpu, index));
  ASSIGN_OR_RETURN(a.rotation.inv_freq, Upload(gpu, frequencies));
  a.q_out = q;
  a.k_cache = k_pool;
  a.v_cache = v_pool;
  a.t = t;
  a.h = kH;
  a.g = kG;
  a.e = kE;
  a.block_size = kBlock;
  a.cache_tokens = (t + kBlock - 1) / kBlock * kBlock;
  a.dtype = DType::kBf16;
  BenchFigure figure{.op = "rope_kv_write", .shape = absl::StrCat("7b t=", t)};
  figure.bytes = 2 * static_cast<double>(qkv_bytes);
  ASSIGN_OR_RETURN(figure.timing, TimeLaunches(gpu, kLaunches, [&](int) {
                     return RopeKvWriteCuda(a, gpu.runtime->main_stream());
                   }));
  PrintBenchFigure(gpu, figure);
  return absl::OkStatus();
}

// The norm before a matrix of Qwen2-7B: plain, in the matrix's order, and in those of q, k and v.
absl::Status RunNormBench(const BenchGpu& gpu, int64_t t, int copies) {
  constexpr int64_t kD = 3584;
  RmsNormArgs a;
  ASSIGN_OR_RETURN(char* const x, AllocateNoise(gpu, (t + 1) * kD * 2, DType::kBf16));
  ASSIGN_OR_RETURN(a.y, gpu.runtime->AllocateDevice(3 * t * kD * 2));
  ASSIGN_OR_RETURN(const int32_t* const places, Upload(gpu, ShuffledPlaces(kD)));
  a.x = x;
  a.weight = x + t * kD * 2;
  a.t = t;
  a.d = kD;
  a.eps = 1e-6f;
  a.dtype = DType::kBf16;
  a.copies.count = copies;
  for (int i = 0; i < copies; ++i) a.copies.copies[i] = {places, kD};
  BenchFigure figure{.op = "rms_norm", .shape = absl::StrCat("order 7b t=", t, " copies=", copies)};
  figure.bytes = static_cast<double>(t * kD * 2 * (1 + std::max(copies, 1)));
  ASSIGN_OR_RETURN(figure.timing, TimeLaunches(gpu, kLaunches, [&](int) {
                     return RmsNormCuda(a, gpu.runtime->main_stream());
                   }));
  PrintBenchFigure(gpu, figure);
  gpu.runtime->FreeDevice(x);
  gpu.runtime->FreeDevice(a.y);
  return absl::OkStatus();
}

std::vector<AttentionBench> Benches() {
  std::vector<AttentionBench> benches;
  const auto decode = [&](int64_t h, int64_t g, int64_t context, int64_t batch,
                          int64_t block_size = 64) {
    benches.push_back({absl::StrCat("decode ", h, "/", g, " c=", context, " b=", batch,
                                    block_size == 64 ? "" : " page 16"),
                       h, g, 128, std::vector<int64_t>(static_cast<size_t>(batch), context), 1,
                       block_size});
  };
  for (int64_t context : {128, 512, 1024, 2048, 4096, 8192, 32768, 131072})
    decode(28, 4, context, 1);
  decode(28, 4, 32768, 1, 16);
  for (int64_t context : {2048, 8192, 32768, 131072}) decode(64, 8, context, 1);
  decode(8, 1, 32768, 1);  // 64/8 over 8 ranks
  for (int64_t batch : {2, 4, 8}) decode(28, 4, 512, batch);
  for (int64_t batch : {2, 4, 8}) decode(28, 4, 2048, batch);
  for (int64_t batch : {4, 16, 64}) decode(28, 4, 4096, batch);
  decode(28, 4, 4096, 64, 16);
  decode(28, 4, 512, 64);
  decode(28, 4, 512, 256);
  decode(32, 8, 350, 256);
  AttentionBench mixed{"decode 28/4 mixed 1x32k 63x100..2000 b=64", 28, 4, 128, {32768}};
  for (int64_t i = 1; i < 64; ++i) mixed.contexts.push_back(100 + i * 30);
  benches.push_back(mixed);
  benches.push_back({"decode 28/4 mixed 32k 20k 7k b=3", 28, 4, 128, {32768, 20001, 7013}});
  benches.push_back({"decode 14/2 e=64 c=32768 b=1", 14, 2, 64, {32768}});
  benches.push_back({"decode 14/2 e=64 c=4096 b=64", 14, 2, 64, std::vector<int64_t>(64, 4096)});
  for (int64_t c : {1024, 4096, 16384, 65536})
    benches.push_back({absl::StrCat("prefill 28/4 c=", c), 28, 4, 128, {c}, c});
  benches.push_back({"prefill 64/8 c=16384", 64, 8, 128, {16384}, 16384});
  benches.push_back({"prefill 28/4 512 rows of c=16384", 28, 4, 128, {16384}, 512});
  benches.push_back({"prefill 28/4 16 x c=512", 28, 4, 128, std::vector<int64_t>(16, 512), 512});
  benches.push_back({"prefill 14/2 e=64 c=4096", 14, 2, 64, {4096}, 4096});
  for (const int64_t rows : {1, 2048}) {
    for (const bool ordered : {false, true})
      benches.push_back(
          {absl::StrCat("order ", rows, " rows 28/4 c=2048", ordered ? " shuffled" : ""),
           28,
           4,
           128,
           {2048},
           rows,
           64,
           ordered});
  }
  return benches;
}

absl::Status Run(absl::string_view filter) {
  ASSIGN_OR_RETURN(const BenchGpu gpu, OpenBenchGpu());
  PrintBenchHeader(gpu);
  ASSIGN_OR_RETURN(char* const k_pool, AllocateNoise(gpu, kPoolBytes, DType::kBf16));
  ASSIGN_OR_RETURN(char* const v_pool, AllocateNoise(gpu, kPoolBytes, DType::kBf16));
  for (const AttentionBench& bench : Benches())
    if (absl::StrContains(bench.name, filter))
      RETURN_IF_ERROR(RunBench(gpu, bench, k_pool, v_pool));
  if (absl::StrContains("in place", filter)) {
    for (int64_t context : {128, 512, 2048, 8192})
      RETURN_IF_ERROR(RunLayerBench(gpu, 1, context, k_pool, v_pool));
    RETURN_IF_ERROR(RunLayerBench(gpu, 3, 2048, k_pool, v_pool));
  }
  if (absl::StrContains("order", filter)) {
    for (const int64_t t : {1, 16, 2048})
      for (const int copies : {0, 1, 3}) RETURN_IF_ERROR(RunNormBench(gpu, t, copies));
  }
  if (absl::StrContains("rope", filter))
    for (int64_t t : {1, 16, 256, 4096}) RETURN_IF_ERROR(RunRopeBench(gpu, t, k_pool, v_pool));
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const absl::Status status = tessera::Run(argc > 1 ? argv[1] : "");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
