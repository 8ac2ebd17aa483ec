#include "model/shard.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <absl/strings/str_cat.h>

#include "common/check.h"
#include "model/parameters.h"
#include "model/quant_modules.h"

namespace tessera {
namespace {

int64_t CeilDiv(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Weight bytes of each layer, the first with the embedding and the last with the head.
std::vector<int64_t> LayerCosts(const ModelConfig& config) {
  std::vector<int64_t> costs;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    costs.push_back(LayerWeightBytes(config, layer));
  costs.front() += VocabWeightBytes(config);
  costs.back() += VocabWeightBytes(config);
  return costs;
}

// How many stages of at most `limit` bytes hold all layers, filled one after the other.
int64_t StagesNeeded(const std::vector<int64_t>& costs, int64_t limit) {
  int64_t stages = 1;
  int64_t filled = 0;
  for (const int64_t cost : costs) {
    if (filled + cost > limit) {
      ++stages;
      filled = 0;
    }
    filled += cost;
  }
  return stages;
}

// The least `limit` under which `pp` stages suffice.
int64_t LeastLimit(const std::vector<int64_t>& costs, int64_t pp) {
  int64_t low = *std::max_element(costs.begin(), costs.end());
  int64_t high = std::accumulate(costs.begin(), costs.end(), int64_t{0});
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (StagesNeeded(costs, middle) <= pp) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// For the first i layers in s stages, each within a limit: the least sum of the squared stage
// sizes (as shares of the limit), and where the last of those stages starts.
struct StageTable {
  StageTable(size_t layers, size_t stages)
      : sum(stages + 1, std::vector<double>(layers + 1, std::numeric_limits<double>::infinity())),
        start(stages + 1, std::vector<size_t>(layers + 1, 0)) {}
  std::vector<std::vector<double>> sum;    // [s][i]
  std::vector<std::vector<size_t>> start;  // [s][i]
};

// The squares make the stages below the limit even as well; of equal sums the one with the shorter
// last stage wins, so larger stages come first.
void FillStageTable(const std::vector<int64_t>& costs, int64_t limit, StageTable& table) {
  constexpr double kSmaller = 1.0 - 1e-12;  // below rounding, sums are equal
  table.sum[0][0] = 0.0;
  for (size_t s = 1; s < table.sum.size(); ++s) {
    for (size_t end = s; end <= costs.size(); ++end) {
      int64_t filled = 0;
      for (size_t begin = end; begin-- > s - 1;) {
        filled += costs[begin];
        if (filled > limit) break;
        const double share = static_cast<double>(filled) / static_cast<double>(limit);
        const double sum = table.sum[s - 1][begin] + share * share;
        if (sum >= table.sum[s][end] * kSmaller) continue;
        table.sum[s][end] = sum;
        table.start[s][end] = begin;
      }
    }
  }
}

absl::Status SplitError(int64_t count, absl::string_view what, int64_t tp) {
  return absl::InvalidArgumentError(
      absl::StrCat(count, " ", what, " do not split over ", tp, " ranks"));
}

absl::Status CheckShape(const ModelConfig& config, ParallelShape shape, int64_t rank) {
  if (shape.tp < 1 || shape.pp < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("tp=", shape.tp, " pp=", shape.pp, ": both must be at least 1"));
  }
  if (shape.pp > config.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.layers, " layers do not split over ", shape.pp, " stages"));
  }
  if (config.heads % shape.tp != 0) return SplitError(config.heads, "query heads", shape.tp);
  if (config.kv_heads % shape.tp != 0 && shape.tp % config.kv_heads != 0)
    return SplitError(config.kv_heads, "kv heads", shape.tp);
  if (rank < 0 || rank >= shape.ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " of tp=", shape.tp, " pp=", shape.pp));
  }
  return absl::OkStatus();
}

// What ranks split the feed-forward by: quantized down projections on whole groups, whose inputs
// share a scale, while there are groups enough; else on steps of the kernels and words of the
// files.
int64_t FeedForwardUnit(const ModelConfig& config, int64_t unit, int64_t tp) {
  constexpr int64_t kFinest = 32;
  if (!config.quant.quantized()) return unit;
  int64_t whole = unit, finest = unit;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const QuantFormat format =
        QuantOf(config, absl::StrCat("model.layers.", layer, ".mlp.down_proj")).format;
    if (!format.quantized()) continue;
    finest = std::lcm(unit, kFinest);
    whole = std::lcm(whole, finest);
    if (format.group > 0) whole = std::lcm(whole, format.group);
    if (config.quant_modules == nullptr) break;  // all layers are alike
  }
  return CeilDiv(config.intermediate, whole) >= tp ? whole : finest;
}

}  // namespace

Range SplitUnits(int64_t total, int64_t unit, int64_t ranks, int64_t rank) {
  TESSERA_CHECK(total >= 0 && unit >= 1 && rank >= 0 && rank < ranks, "total=", total,
                " unit=", unit, " rank=", rank, " ranks=", ranks);
  const int64_t units = CeilDiv(total, unit);
  const int64_t each = units / ranks;
  const int64_t larger = units % ranks;  // ranks with one unit more
  const auto begin_of = [&](int64_t r) {
    return std::min((r * each + std::min(r, larger)) * unit, total);
  };
  return {begin_of(rank), begin_of(rank + 1)};
}

int64_t EqualWidth(int64_t total, int64_t unit, int64_t ranks) {
  TESSERA_CHECK(total >= 0 && unit >= 1 && ranks >= 1, "total=", total, " unit=", unit,
                " ranks=", ranks);
  return CeilDiv(CeilDiv(total, ranks), unit) * unit;
}

std::vector<Range> StageLayers(const ModelConfig& config, int64_t pp) {
  TESSERA_CHECK(pp >= 1 && pp <= config.layers, "pp=", pp, " layers=", config.layers);
  const std::vector<int64_t> costs = LayerCosts(config);
  StageTable table(costs.size(), static_cast<size_t>(pp));
  FillStageTable(costs, LeastLimit(costs, pp), table);
  std::vector<Range> ranges(static_cast<size_t>(pp));
  size_t end = costs.size();
  for (size_t s = ranges.size(); s > 0; --s) {
    const size_t begin = table.start[s][end];
    ranges[s - 1] = {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
    end = begin;
  }
  return ranges;
}

absl::StatusOr<Shard> MakeShard(const ModelConfig& config, ParallelShape shape, int64_t rank,
                                int64_t unit) {
  if (absl::Status status = CheckShape(config, shape, rank); !status.ok()) return status;
  Shard shard;
  shard.shape = shape;
  shard.tp_rank = rank % shape.tp;
  shard.stage = rank / shape.tp;
  shard.unit = unit;
  shard.layers = StageLayers(config, shape.pp)[static_cast<size_t>(shard.stage)];
  shard.heads = SplitUnits(config.heads, 1, shape.tp, shard.tp_rank);
  const int64_t heads_per_kv = config.heads / config.kv_heads;
  shard.kv_heads = {shard.heads.begin / heads_per_kv, CeilDiv(shard.heads.end, heads_per_kv)};
  shard.ffn = SplitUnits(config.intermediate, FeedForwardUnit(config, unit, shape.tp), shape.tp,
                         shard.tp_rank);
  shard.vocab_width = EqualWidth(config.vocab, unit, shape.tp);
  shard.vocab = {std::min(shard.tp_rank * shard.vocab_width, config.vocab),
                 std::min((shard.tp_rank + 1) * shard.vocab_width, config.vocab)};
  return shard;
}

}  // namespace tessera
