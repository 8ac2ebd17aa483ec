#include "planner/search.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "planner/explain.h"

namespace tessera {
namespace {

// What a stage's hidden rows take to reach the next stage.
constexpr double kGpuHopMs = 0.015;
constexpr double kCpuHopMs = 0.1;
constexpr int64_t kMaxContext = int64_t{1} << 24;

struct Candidate {
  ParallelShape shape;
  std::vector<RankPlan> ranks;
  int64_t largest_bytes = 0;
  double ms_per_token = 0;
};

LayoutInput LayoutOf(const PlanInput& input, const Shard& shard, int64_t kv_blocks) {
  return {.config = input.config,
          .shard = shard,
          .limits = input.limits,
          .device = input.gpu.spec,
          .dtype = input.dtype,
          .kv_blocks = kv_blocks};
}

absl::StatusOr<RankPlan> PlanRank(const PlanInput& input, const ParallelShape& shape, int64_t rank,
                                  int64_t kv_blocks) {
  const int64_t unit = input.gpu.spec.device == Device::kCuda ? 16 : 8;
  RankPlan plan;
  ASSIGN_OR_RETURN(plan.shard, MakeShard(input.config, shape, rank, unit));
  ASSIGN_OR_RETURN(plan.buffers, MemoryLayout(LayoutOf(input, plan.shard, kv_blocks)));
  plan.reserve_bytes = ReserveBytes(input.gpu.spec, shape);
  plan.total_bytes = TotalBytes(plan.buffers) + plan.reserve_bytes;
  return plan;
}

// Bytes of weights that one token at batch 1 reads: of an embedding that is not also the head one
// row, which counts as nothing; of routed experts the chosen ones.
double WeightBytesRead(const PlanInput& input, const RankPlan& rank) {
  const bool embed_is_head =
      input.config.tied_embeddings && rank.shard.first() && rank.shard.last();
  const MoeConfig& moe = input.config.moe;
  double bytes = 0;
  for (const BufferSpec& b : rank.buffers) {
    if (b.kind != BufferKind::kWeights || (b.name == "embed" && !embed_is_head)) continue;
    const bool routed = moe.experts > 0 && absl::EndsWith(b.name, ".experts");
    const double share =
        routed ? static_cast<double>(moe.experts_per_token) / static_cast<double>(moe.experts)
               : 1.0;
    bytes += static_cast<double>(b.bytes) * share;
  }
  return bytes;
}

// At batch 1 a token walks through the stages one after the other; within a stage the slowest rank
// counts, and two sums a layer when it has several ranks.
double MsPerToken(const PlanInput& input, const Candidate& candidate) {
  const EngineLimits& limits = input.limits;
  const double cached_blocks =
      0.5 * static_cast<double>(limits.context) / static_cast<double>(limits.block_size);
  const bool cpu = input.gpu.spec.device == Device::kCpu;
  std::vector<double> stage_ms(static_cast<size_t>(candidate.shape.pp), 0.0);
  for (const RankPlan& rank : candidate.ranks) {
    const auto block_bytes = static_cast<double>(KvBlockBytes(LayoutOf(input, rank.shard, 0)));
    const double bytes = WeightBytesRead(input, rank) + block_bytes * cached_blocks;
    double ms = bytes / input.gpu.bandwidth * 1e3;
    if (candidate.shape.tp > 1)
      ms += 2.0 * static_cast<double>(rank.shard.layers.size()) * input.gpu.all_reduce_us * 1e-3;
    double& slowest = stage_ms[static_cast<size_t>(rank.shard.stage)];
    slowest = std::max(slowest, ms);
  }
  double total = static_cast<double>(candidate.shape.pp - 1) * (cpu ? kCpuHopMs : kGpuHopMs);
  for (const double ms : stage_ms) total += ms;
  return total;
}

absl::StatusOr<Candidate> Build(const PlanInput& input, const ParallelShape& shape,
                                int64_t kv_blocks) {
  Candidate candidate{.shape = shape};
  for (int64_t r = 0; r < shape.ranks(); ++r) {
    ASSIGN_OR_RETURN(RankPlan rank, PlanRank(input, shape, r, kv_blocks));
    candidate.largest_bytes = std::max(candidate.largest_bytes, rank.total_bytes);
    candidate.ranks.push_back(std::move(rank));
  }
  candidate.ms_per_token = MsPerToken(input, candidate);
  return candidate;
}

bool HeadsSplit(const ModelConfig& config, int64_t tp) {
  return config.heads % tp == 0 && (config.kv_heads % tp == 0 || tp % config.kv_heads == 0);
}

// More ranks than this have no split, or none that anybody has.
int64_t MostRanks(const ModelConfig& config) {
  return std::min<int64_t>(1024, config.layers * config.heads);
}

// The splits of `count` ranks that the model's heads and layers and the user's tp and pp allow.
std::vector<ParallelShape> ShapesOf(const PlanInput& input, int64_t count) {
  std::vector<ParallelShape> shapes;
  for (int64_t tp = count; tp >= 1; --tp) {
    if (count % tp != 0 || (input.tp != 0 && input.tp != tp)) continue;
    const int64_t pp = count / tp;
    if (input.pp != 0 && input.pp != pp) continue;
    if (HeadsSplit(input.config, tp) && pp <= input.config.layers) shapes.push_back({tp, pp});
  }
  return shapes;
}

// The fastest split of `count` ranks that fits, if any does. A split is given up at its first rank
// that does not fit.
absl::StatusOr<std::optional<Candidate>> FastestThatFits(const PlanInput& input, int64_t count,
                                                         int64_t kv_blocks) {
  const int64_t cap = UsableBytes(input);
  std::optional<Candidate> best;
  for (const ParallelShape& shape : ShapesOf(input, count)) {
    ASSIGN_OR_RETURN(const RankPlan first, PlanRank(input, shape, 0, kv_blocks));
    if (first.total_bytes > cap) continue;
    ASSIGN_OR_RETURN(Candidate candidate, Build(input, shape, kv_blocks));
    if (candidate.largest_bytes > cap) continue;
    if (!best || candidate.ms_per_token < best->ms_per_token) best = std::move(candidate);
  }
  return best;
}

// Of the largest count up to `count` that has a split, the one whose largest rank is smallest.
absl::StatusOr<std::optional<Candidate>> BestMisfit(const PlanInput& input, int64_t count,
                                                    int64_t kv_blocks) {
  for (; count >= 1; --count) {
    std::optional<Candidate> best;
    for (const ParallelShape& shape : ShapesOf(input, count)) {
      ASSIGN_OR_RETURN(Candidate candidate, Build(input, shape, kv_blocks));
      if (!best || candidate.largest_bytes < best->largest_bytes) best = std::move(candidate);
    }
    if (best) return best;
  }
  return std::optional<Candidate>();
}

absl::Status CheckInput(const PlanInput& input) {
  const ModelConfig& c = input.config;
  const auto invalid = [](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat(words...));
  };
  const EngineLimits& l = input.limits;
  if (l.context < 1 || l.context > kMaxContext)
    return invalid("context ", l.context, ": want 1..", kMaxContext, " tokens");
  if (l.block_size < 1) return invalid("block_size ", l.block_size, ": want at least 1 token");
  if (input.sequences < 1) return invalid("sequences ", input.sequences, ": want at least 1");
  if (input.sequences > l.max_sequences) {
    return invalid("sequences ", input.sequences, ": more than max_sequences ", l.max_sequences);
  }
  if (input.max_ranks < 1) return invalid("max_ranks ", input.max_ranks, ": want at least 1");
  if (input.memory_cap < 0) return invalid("memory_cap ", input.memory_cap, ": negative");
  if (input.tp < 0) return invalid("tp ", input.tp, ": negative");
  if (input.pp < 0) return invalid("pp ", input.pp, ": negative");
  if (input.tp > 0 && !HeadsSplit(c, input.tp)) {
    return invalid("tp ", input.tp, ": ", c.heads, " query heads and ", c.kv_heads,
                   " kv heads do not split over ", input.tp, " ranks");
  }
  if (input.pp > c.layers)
    return invalid("pp ", input.pp, ": more stages than ", c.layers, " layers");
  return absl::OkStatus();
}

// The most KV blocks that every rank of `candidate`, built with `least`, can hold.
int64_t AffordableBlocks(const PlanInput& input, const Candidate& candidate, int64_t least) {
  const int64_t cap = UsableBytes(input);
  int64_t blocks = input.limits.max_sequences * input.limits.max_blocks();
  for (const RankPlan& rank : candidate.ranks) {
    const int64_t block_bytes = KvBlockBytes(LayoutOf(input, rank.shard, 0));
    // A kv buffer grows by what rounding leaves less than one alignment short.
    const int64_t spare = std::max<int64_t>(0, cap - rank.total_bytes - kBufferAlignment);
    blocks = std::min(blocks, least + spare / block_bytes);
  }
  return std::max(blocks, least);
}

// Positions the model was made for: YaRN multiplies what it was trained on.
int64_t SupportedPositions(const ModelConfig& config) {
  if (config.rope.kind != RopeKind::kYarn) return config.max_positions;
  const double scaled =
      static_cast<double>(config.rope.original_max_positions) * config.rope.factor;
  return std::max(config.max_positions, static_cast<int64_t>(scaled));
}

absl::StatusOr<std::string> WhyNotFewer(const PlanInput& input, const ParallelShape& shape,
                                        int64_t least_blocks) {
  if (shape.ranks() == 1) return std::string("1 is the least: nothing smaller exists");
  ASSIGN_OR_RETURN(const std::optional<Candidate> smaller,
                   BestMisfit(input, shape.ranks() - 1, least_blocks));
  if (!smaller) {
    return absl::StrCat("no smaller count has a split with tp ",
                        input.tp == 0 ? "free" : absl::StrCat(input.tp), " and pp ",
                        input.pp == 0 ? "free" : absl::StrCat(input.pp));
  }
  return absl::StrCat("why not fewer: ", DescribeMisfit(input, smaller->shape, smaller->ranks));
}

// The fastest split of the least count in [from, to] that fits, if any does.
absl::StatusOr<std::optional<Candidate>> LeastThatFits(const PlanInput& input, int64_t from,
                                                       int64_t to, int64_t kv_blocks) {
  std::optional<Candidate> best;
  for (int64_t count = from; count <= to && !best; ++count) {
    ASSIGN_OR_RETURN(best, FastestThatFits(input, count, kv_blocks));
  }
  return best;
}

// The refusal: what more ranks would do, and what is missing with those there are.
absl::Status NothingFits(const PlanInput& input, int64_t most, int64_t least_blocks) {
  std::string text = absl::StrCat("no split over at most ", input.max_ranks, " ranks fits");
  ASSIGN_OR_RETURN(const std::optional<Candidate> enough,
                   LeastThatFits(input, most + 1, MostRanks(input.config), least_blocks));
  if (enough) {
    absl::StrAppend(&text, "; the plan needs ", enough->shape.ranks(), " (tp ", enough->shape.tp,
                    " x pp ", enough->shape.pp, ")");
  }
  ASSIGN_OR_RETURN(const std::optional<Candidate> best, BestMisfit(input, most, least_blocks));
  if (best) absl::StrAppend(&text, "; ", DescribeMisfit(input, best->shape, best->ranks));
  return absl::ResourceExhaustedError(text);
}

}  // namespace

EngineLimits ResolveLimits(const ModelConfig& config, const DeviceSpec& device, EngineLimits limits,
                           int64_t sequences) {
  constexpr int64_t kDefaultSequences = 64, kDefaultBlock = 64;
  if (limits.context == 0) limits.context = config.max_positions;
  if (limits.max_sequences == 0) limits.max_sequences = std::max(kDefaultSequences, sequences);
  if (limits.max_step_tokens == 0) {
    const int64_t step = device.device == Device::kCpu ? 512 : 2048;
    limits.max_step_tokens = std::max(step, limits.max_sequences);
  }
  if (limits.block_size == 0) limits.block_size = kDefaultBlock;
  return limits;
}

DType DefaultDType(const ModelConfig& config, const DeviceSpec& device) {
  if (device.device == Device::kCpu) return DType::kF32;
  return config.dtype == DType::kF32 ? DType::kBf16 : config.dtype;
}

int64_t UsableBytes(const PlanInput& input) {
  if (input.memory_cap > 0) return input.memory_cap;
  return static_cast<int64_t>(static_cast<double>(input.gpu.memory_bytes) * kUsableShare);
}

absl::StatusOr<Plan> FindPlan(const PlanInput& input) {
  RETURN_IF_ERROR(CheckInput(input));
  const int64_t least_blocks = input.sequences * input.limits.max_blocks();
  const int64_t most = std::min(input.max_ranks, MostRanks(input.config));
  ASSIGN_OR_RETURN(const std::optional<Candidate> best,
                   LeastThatFits(input, 1, most, least_blocks));
  if (!best) return NothingFits(input, most, least_blocks);

  Plan plan;
  plan.shape = best->shape;
  plan.kv_blocks = AffordableBlocks(input, *best, least_blocks);
  ASSIGN_OR_RETURN(Candidate filled, Build(input, best->shape, plan.kv_blocks));
  plan.ranks = std::move(filled.ranks);
  plan.ms_per_token = filled.ms_per_token;
  ASSIGN_OR_RETURN(plan.explanation, WhyNotFewer(input, plan.shape, least_blocks));
  const int64_t positions = SupportedPositions(input.config);
  if (input.limits.context > positions) {
    plan.warnings.push_back(absl::StrCat("context ", input.limits.context, " is past the model's ",
                                         positions, " positions (max_position_embeddings)"));
  }
  return plan;
}

}  // namespace tessera
