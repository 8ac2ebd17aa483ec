#include "planner/memory_layout.h"

#include <algorithm>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "common/align.h"
#include "common/status_macros.h"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/comm/peer_region_config.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/sampling/sample_config.h"
#include "model/weight_table.h"
#include "planner/step_capacity.h"

namespace tessera {
namespace {

constexpr int64_t kMaxTopLogprobsBytes = 20 * 8;  // ids and values per row
constexpr int64_t kSamplingParamsBytes = 48;

// Collects buffers, rounding each up.
class Layout {
 public:
  void Add(std::string name, BufferKind kind, int64_t bytes) {
    if (bytes == 0) return;
    buffers_.push_back({std::move(name), kind, AlignUp(bytes, kBufferAlignment)});
  }
  std::vector<BufferSpec> Take() { return std::move(buffers_); }

 private:
  std::vector<BufferSpec> buffers_;
};

absl::Status CheckLimits(const EngineLimits& l) {
  auto out_of_range = [](absl::string_view name, int64_t value, absl::string_view want) {
    return absl::InvalidArgumentError(absl::StrCat(name, " ", value, ": want ", want));
  };
  if (l.context < 1) return out_of_range("context", l.context, "at least 1 token");
  if (l.context > (int64_t{1} << 24)) return out_of_range("context", l.context, "at most 2^24");
  if (l.max_sequences < 1 || l.max_sequences > 4096)
    return out_of_range("max_sequences", l.max_sequences, "1..4096");
  if (l.max_step_tokens < l.max_sequences || l.max_step_tokens > 65536) {
    return out_of_range("max_step_tokens", l.max_step_tokens,
                        absl::StrCat("max_sequences (", l.max_sequences, ")..65536"));
  }
  if (l.block_size < 16 || l.block_size > 1024 || l.block_size % 16 != 0)
    return out_of_range("block_size", l.block_size, "a multiple of 16 up to 1024");
  return absl::OkStatus();
}

// Whether buffer `name`, "layers.{i}.gate_up" or "layers.{i}.down", is of a sparse layer.
bool IsRoutedFeedForward(const ModelConfig& config, absl::string_view name) {
  int64_t layer = 0;
  if (config.moe.experts == 0 || !absl::ConsumePrefix(&name, "layers.")) return false;
  const size_t dot = name.find('.');
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(name.substr(0, dot), &layer))
    return false;
  const absl::string_view part = name.substr(dot + 1);
  return (part == "gate_up" || part == "down") && config.IsSparse(layer);
}

// The weights of a rank but for routed experts, which WeightTable() refuses; AddExperts() counts
// them in place of the feed-forward.
absl::StatusOr<std::vector<WeightSpec>> TableOf(const LayoutInput& in) {
  if (in.config.moe.experts == 0) return WeightTable(in.config, in.shard);
  ModelConfig dense = in.config;
  dense.moe = {};
  ASSIGN_OR_RETURN(std::vector<WeightSpec> table, WeightTable(dense, in.shard));
  const auto routed = [&](const WeightSpec& w) { return IsRoutedFeedForward(in.config, w.name); };
  table.erase(std::remove_if(table.begin(), table.end(), routed), table.end());
  return table;
}

void AddWeights(const LayoutInput& in, const std::vector<WeightSpec>& table, Layout& layout) {
  for (const WeightSpec& w : table) {
    const bool matrix = w.role == WeightRole::kMatrix || w.role == WeightRole::kEmbedding;
    layout.Add(w.name, BufferKind::kWeights, w.bytes(matrix ? MatrixDType(in) : in.dtype));
  }
}

// Rows of activations that only some quantized models need, in elements a token.
struct QuantRows {
  bool any = false;
  int64_t normed = 0;       // the norm on its own, in the orders of the matrices that follow it
  int64_t attended = 0;     // attention's output in the order of the matrix that follows
  int64_t split = 0;        // outputs of matrices that are not merged
  int64_t activated = 0;    // of the widest feed-forward, whose rows may be padded
  int64_t last_hidden = 0;  // the last norm in the order of the head
};

QuantRows QuantRowsOf(const std::vector<WeightSpec>& table) {
  QuantRows rows;
  int64_t copies = 0;   // columns of q, k and v, or gate and up, together
  bool orders = false;  // of these
  for (const WeightSpec& w : table) {
    const auto is = [&](const char* part) { return absl::EndsWith(w.name, part); };
    rows.any = rows.any || w.is_packed();
    const bool ordered = w.is_packed() && w.packed.ordered;
    const bool qkv = is(".q") || is(".k") || is(".v"), gate_up = is(".gate") || is(".up");
    if (qkv) rows.split = std::max(rows.split, w.rows);
    if (gate_up) rows.split = std::max(rows.split, 3 * w.rows);  // both, and one of them
    if (qkv || gate_up) {
      const bool first = is(".q") || is(".gate");
      copies = first ? w.cols : copies + w.cols;
      orders = first ? ordered : orders || ordered;
      rows.normed = std::max(rows.normed, orders ? copies : w.cols);
    }
    if (ordered && (is(".qkv") || is(".gate_up"))) rows.normed = std::max(rows.normed, w.cols);
    if (ordered && is(".o")) rows.attended = std::max(rows.attended, w.cols);
    if (ordered && w.name == "head") rows.last_hidden = w.cols;
    if (is(".down") && w.is_packed()) rows.activated = std::max(rows.activated, w.cols);
  }
  return rows;
}

// Bytes of the routed part of sparse layers, which WeightTable() does not list.
void AddExperts(const LayoutInput& in, Layout& layout) {
  const ModelConfig& c = in.config;
  const DType matrix = MatrixDType(in);
  const int64_t tp = in.shard.shape.tp;
  auto feed_forward = [&](int64_t intermediate) {
    const int64_t rows = SplitUnits(intermediate, in.shard.unit, tp, in.shard.tp_rank).size();
    return WeightBytes(c.quant, matrix, 2 * rows, c.hidden) +
           WeightBytes(c.quant, matrix, c.hidden, rows);
  };
  for (int64_t i = in.shard.layers.begin; i < in.shard.layers.end; ++i) {
    if (!c.IsSparse(i)) continue;
    const std::string layer = absl::StrCat("layers.", i, ".");
    layout.Add(layer + "router", BufferKind::kWeights, c.moe.experts * c.hidden * SizeOf(in.dtype));
    layout.Add(layer + "experts", BufferKind::kWeights,
               c.moe.experts * feed_forward(c.moe.intermediate));
    if (c.moe.shared_intermediate > 0) {
      layout.Add(layer + "shared_expert", BufferKind::kWeights,
                 feed_forward(c.moe.shared_intermediate) + c.hidden * SizeOf(in.dtype));
    }
  }
}

// The widest feed-forward of the rank, in rows after the split.
int64_t WidestFeedForward(const LayoutInput& in, const QuantRows& quant) {
  const MoeConfig& moe = in.config.moe;
  if (moe.experts == 0) return std::max(in.shard.ffn.size(), quant.activated);
  const int64_t tp = in.shard.shape.tp;
  return std::max({in.config.IsSparse(in.shard.layers.begin) ? int64_t{0} : in.shard.ffn.size(),
                   SplitUnits(moe.shared_intermediate, in.shard.unit, tp, in.shard.tp_rank).size(),
                   moe.experts_per_token *
                       SplitUnits(moe.intermediate, in.shard.unit, tp, in.shard.tp_rank).size()});
}

void AddActivations(const LayoutInput& in, const QuantRows& quant, Layout& layout) {
  const ModelConfig& c = in.config;
  const EngineLimits& l = in.limits;
  const int64_t element = SizeOf(in.dtype), t = l.max_step_tokens;
  const int64_t q = in.shard.heads.size() * c.head_size;
  const int64_t kv = in.shard.kv_heads.size() * c.head_size;
  const auto add = [&](const char* name, int64_t bytes) {
    layout.Add(name, BufferKind::kActivations, bytes);
  };
  add("hidden", t * c.hidden * element);
  const bool sharded = in.shard.shape.tp > 1;
  add("normed", t * std::max(quant.normed, sharded ? c.hidden : int64_t{0}) * element);
  add("partial", sharded ? t * c.hidden * element : 0);
  add("split", t * quant.split * element);
  // Attention's rows and the feed-forward's are never alive together, but for those of one token.
  add("scratch", std::max(AlignUp(t * (q + 2 * kv) * element, kBufferAlignment) +
                              AlignUp(t * q * element, kBufferAlignment) +
                              AlignUp(t * std::max(q, quant.attended) * element, kBufferAlignment),
                          t * WidestFeedForward(in, quant) * element));
  add("activated_row", WidestFeedForward(in, quant) * element);
  add("token_ids", t * SizeOf(DType::kI32));
  add("kv_index", t * SizeOf(DType::kI64));
  add("block_table", l.max_sequences * l.max_blocks() * SizeOf(DType::kI32));
  add("plan", MaxPlanBytes(l));
  add("inv_freq", c.head_size / 2 * SizeOf(DType::kF32));
}

void AddSampling(const LayoutInput& in, const QuantRows& quant, Layout& layout) {
  const ModelConfig& c = in.config;
  const EngineLimits& l = in.limits;
  const int64_t slots = l.max_sequences;
  const auto add = [&](const char* name, int64_t bytes) {
    layout.Add(name, BufferKind::kSampling, bytes);
  };
  add("ids", Lanes(in.shard.shape) * slots * SizeOf(DType::kI32));
  add("logprobs", slots * (SizeOf(DType::kF32) + kMaxTopLogprobsBytes));
  add("prompt_logprobs", l.max_step_tokens * SizeOf(DType::kF32));
  if (!in.shard.last()) return;
  add("sampling_params", slots * kSamplingParamsBytes);
  add("seen_tokens", slots * c.vocab * 2);
  add("last_hidden", slots * std::max(c.hidden, quant.last_hidden) * SizeOf(in.dtype));
  add("logits", in.shard.shape.tp * slots * in.shard.vocab_width * SizeOf(DType::kF32));
}

int64_t WorkspaceBytes(const LayoutInput& in, const QuantRows& quant) {
  const ModelConfig& c = in.config;
  const int64_t t = in.limits.max_step_tokens, slots = in.limits.max_sequences;
  const int64_t q = in.shard.heads.size() * c.head_size;
  const int64_t kv = in.shard.kv_heads.size() * c.head_size;
  const bool fused_norm = in.shard.shape.tp == 1;
  const auto linear = [&](int64_t rows, int64_t n, int64_t k, bool gated, bool normed) {
    return LinearWorkspaceBytes(in.device.device, in.device.sm_count, rows, n, k, gated, normed);
  };
  const int64_t ffn = WidestFeedForward(in, quant);
  int64_t bytes = std::max(
      {linear(t, q + 2 * kv, c.hidden, false, fused_norm), linear(t, c.hidden, q, false, false),
       linear(t, ffn, c.hidden, true, fused_norm), linear(t, c.hidden, ffn, false, false),
       PagedAttentionWorkspaceBytes(in.device.device, in.device.sm_count, t, slots,
                                    in.shard.heads.size(), in.shard.kv_heads.size(), c.head_size)});
  if (quant.any && in.device.device == Device::kCuda) bytes = std::max(bytes, kRawBlockBytes);
  if (in.shard.last()) {
    bytes = std::max({bytes, linear(slots, in.shard.vocab_width, c.hidden, false, false),
                      SampleWorkspaceBytes(in.device.device, slots, c.vocab)});
  }
  return bytes;
}

}  // namespace

absl::string_view Name(BufferKind kind) {
  switch (kind) {
    case BufferKind::kWeights:
      return "weights";
    case BufferKind::kKv:
      return "kv";
    case BufferKind::kActivations:
      return "activations";
    case BufferKind::kSampling:
      return "sampling";
    case BufferKind::kWorkspace:
      return "workspace";
    case BufferKind::kCommunication:
      return "communication";
  }
  return "unknown";
}

DType MatrixDType(const LayoutInput& input) {
  return input.device.device == Device::kCpu ? input.config.dtype : input.dtype;
}

absl::StatusOr<std::vector<BufferSpec>> MemoryLayout(const LayoutInput& input) {
  RETURN_IF_ERROR(CheckLimits(input.limits));
  if (input.kv_blocks < 0)
    return absl::InvalidArgumentError(absl::StrCat("kv_blocks ", input.kv_blocks, ": negative"));
  Layout layout;
  ASSIGN_OR_RETURN(const std::vector<WeightSpec> table, TableOf(input));
  const QuantRows quant = QuantRowsOf(table);
  AddWeights(input, table, layout);
  if (input.config.moe.experts > 0) AddExperts(input, layout);
  layout.Add("kv", BufferKind::kKv, input.kv_blocks * KvBlockBytes(input));
  AddActivations(input, quant, layout);
  AddSampling(input, quant, layout);
  layout.Add("workspace", BufferKind::kWorkspace, WorkspaceBytes(input, quant));
  if (input.device.device == Device::kCuda && input.shard.shape.tp > 1) {
    layout.Add("peer", BufferKind::kCommunication,
               PeerRegionBytes(static_cast<int>(input.shard.shape.tp),
                               std::min(input.limits.max_sequences, kPeerRows), input.config.hidden,
                               input.dtype));
  }
  return layout.Take();
}

int64_t KvBlockBytes(const LayoutInput& input) {
  return 2 * input.shard.layers.size() * input.shard.kv_heads.size() * input.limits.block_size *
         input.config.head_size * SizeOf(input.dtype);
}

int64_t TotalBytes(const std::vector<BufferSpec>& layout) {
  int64_t total = 0;
  for (const BufferSpec& b : layout) total += b.bytes;
  return total;
}

int64_t ReserveBytes(const DeviceSpec& device, const ParallelShape& shape) {
  if (device.device == Device::kCpu) return 0;
  constexpr int64_t kMiB = 1 << 20;
  // Measured on H200 with driver 580 and NCCL 2.28 (docs/memory.md): the CUDA context with this
  // program's kernels and cuBLASLt; NCCL's buffers of a tensor-parallel group; the two
  // communicators between stages.
  constexpr int64_t kContext = 540 * kMiB, kTensorGroup = 860 * kMiB, kStages = 1400 * kMiB;
  int64_t bytes = kContext;
  if (shape.tp > 1) bytes += kTensorGroup;
  if (shape.pp > 1) bytes += kStages;
  return bytes;
}

}  // namespace tessera
