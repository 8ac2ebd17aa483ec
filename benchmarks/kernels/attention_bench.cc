// Times paged attention: decode against the bytes of the context, prefill against its products.
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
};

struct DeviceStep {
  const int32_t *block_table, *seq_slot, *q_start, *context;
  int64_t blocks = 0, max_blocks = 0, max_context = 0;
};

absl::StatusOr<const int32_t*> Upload(const BenchGpu& gpu, const std::vector<int32_t>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
  ASSIGN_OR_RETURN(void* const memory, gpu.runtime->AllocateDevice(bytes));
  const Stream& stream = gpu.runtime->main_stream();
  RETURN_IF_ERROR(gpu.runtime->Copy(memory, values.data(), bytes, stream));
  RETURN_IF_ERROR(gpu.runtime->Synchronize(stream));
  return static_cast<const int32_t*>(memory);
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
      context(s);
  size_t next = 0;
  for (size_t i = 0; i < s; ++i) {
    slot[i] = static_cast<int32_t>(i);
    context[i] = static_cast<int32_t>(b.contexts[i]);
    q_start[i + 1] = q_start[i] + static_cast<int32_t>(b.rows);
    for (int64_t j = 0; j * b.block_size < b.contexts[i]; ++j)
      table[i * static_cast<size_t>(step.max_blocks) + static_cast<size_t>(j)] = order[next++];
  }
  ASSIGN_OR_RETURN(step.block_table, Upload(gpu, table));
  ASSIGN_OR_RETURN(step.seq_slot, Upload(gpu, slot));
  ASSIGN_OR_RETURN(step.q_start, Upload(gpu, q_start));
  ASSIGN_OR_RETURN(step.context, Upload(gpu, context));
  return step;
}

absl::Status RunBench(const BenchGpu& gpu, const AttentionBench& b, char* k_pool, char* v_pool) {
  ASSIGN_OR_RETURN(const DeviceStep step, UploadStep(gpu, b));
  const auto s = static_cast<int64_t>(b.contexts.size());
  const int64_t t = s * b.rows, row_bytes = t * b.h * b.e * 2;
  const int64_t cache_bytes = step.blocks * b.block_size * b.g * b.e * 2;
  if (cache_bytes > kPoolBytes) return absl::ResourceExhaustedError("cache above the pool");
  ASSIGN_OR_RETURN(char* const q, AllocateNoise(gpu, row_bytes, DType::kBf16));
  ASSIGN_OR_RETURN(void* const out, gpu.runtime->AllocateDevice(row_bytes));
  const int64_t workspace_bytes =
      PagedAttentionWorkspaceBytes(Device::kCuda, gpu.sm_count, t, s, b.h, b.g, b.e);
  ASSIGN_OR_RETURN(void* const workspace, gpu.runtime->AllocateDevice(workspace_bytes));
  PagedAttentionArgs a;
  a.q = q;
  a.block_table = step.block_table;
  a.seq_slot = step.seq_slot;
  a.q_start = step.q_start;
  a.context = step.context;
  a.out = out;
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
  a.workspace = workspace;
  a.workspace_bytes = workspace_bytes;
  const int rotation = RotationCount(gpu, 2 * cache_bytes, 2 * kPoolBytes);
  const int launches = b.rows == 1 ? std::max(rotation, kLaunches) : 4;
  BenchFigure figure{.op = "attention", .shape = b.name};
  ASSIGN_OR_RETURN(figure.timing, TimeLaunches(gpu, launches, [&](int i) {
                     a.k_cache = k_pool + i % rotation * cache_bytes;
                     a.v_cache = v_pool + i % rotation * cache_bytes;
                     return PagedAttentionCuda(a, gpu.runtime->main_stream());
                   }));
  const auto tokens =
      static_cast<double>(std::accumulate(b.contexts.begin(), b.contexts.end(), int64_t{0}));
  const auto kv_bytes = tokens * static_cast<double>(b.g * b.e) * 4;
  figure.bytes = kv_bytes + 2 * static_cast<double>(row_bytes);
  if (b.rows > 1) {
    const auto rows = static_cast<double>(b.rows);
    double pairs = 0;
    for (int64_t context : b.contexts)
      pairs += rows * static_cast<double>(context) - rows * (rows - 1) / 2;
    figure.flops = 4 * pairs * static_cast<double>(b.h * b.e);
  }
  PrintBenchFigure(gpu, figure);
  gpu.runtime->FreeDevice(q);
  gpu.runtime->FreeDevice(out);
  gpu.runtime->FreeDevice(workspace);
  return absl::OkStatus();
}

absl::Status RunRopeBench(const BenchGpu& gpu, int64_t t, char* k_pool, char* v_pool) {
  constexpr int64_t kH = 28, kG = 4, kE = 128, kBlock = 64;
  const int64_t qkv_bytes = t * (kH + 2 * kG) * kE * 2;
  ASSIGN_OR_RETURN(char* const qkv, AllocateNoise(gpu, qkv_bytes, DType::kBf16));
  ASSIGN_OR_RETURN(void* const q, gpu.runtime->AllocateDevice(t * kH * kE * 2));
  std::vector<int32_t> positions(static_cast<size_t>(t)), index(2 * static_cast<size_t>(t));
  for (size_t i = 0; i < positions.size(); ++i) {
    positions[i] = static_cast<int32_t>(i) + 1000;
    index[2 * i] = static_cast<int32_t>(i);  // little-endian int64
  }
  std::vector<int32_t> frequencies(kE / 2, 0x3f000000);  // 0.5f
  RopeKvWriteArgs a;
  a.qkv = qkv;
  ASSIGN_OR_RETURN(a.positions, Upload(gpu, positions));
  ASSIGN_OR_RETURN(const int32_t* const kv_index, Upload(gpu, index));
  a.kv_index = reinterpret_cast<const int64_t*>(kv_index);
  ASSIGN_OR_RETURN(const int32_t* const inv_freq, Upload(gpu, frequencies));
  a.inv_freq = reinterpret_cast<const float*>(inv_freq);
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

std::vector<AttentionBench> Benches() {
  std::vector<AttentionBench> benches;
  const auto decode = [&](int64_t h, int64_t g, int64_t context, int64_t batch,
                          int64_t block_size = 64) {
    benches.push_back({absl::StrCat("decode ", h, "/", g, " c=", context, " b=", batch,
                                    block_size == 64 ? "" : " page 16"),
                       h, g, 128, std::vector<int64_t>(static_cast<size_t>(batch), context), 1,
                       block_size});
  };
  for (int64_t context : {128, 1024, 2048, 4096, 8192, 32768, 131072}) decode(28, 4, context, 1);
  decode(28, 4, 32768, 1, 16);
  for (int64_t context : {2048, 8192, 32768, 131072}) decode(64, 8, context, 1);
  decode(8, 1, 32768, 1);  // 64/8 over 8 ranks
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
  if (absl::StrContains("rope", filter) || filter.empty())
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
