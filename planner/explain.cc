#include "planner/explain.h"

#include <array>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace tessera {
namespace {

constexpr std::array<BufferKind, 6> kKinds = {BufferKind::kWeights,     BufferKind::kKv,
                                              BufferKind::kActivations, BufferKind::kSampling,
                                              BufferKind::kWorkspace,   BufferKind::kCommunication};

// A refusal travels as an RPC's error text, for which gRPC leaves 8 KiB.
constexpr int64_t kMostGroups = 8;

std::string Grouped(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

// Neighbours in one stage with the same bytes, which is what tensor parallelism mostly makes.
struct Group {
  const RankPlan* first;
  int64_t count;
};

int64_t RankOf(const Shard& shard) { return shard.stage * shard.shape.tp + shard.tp_rank; }

std::vector<Group> GroupAlike(const std::vector<RankPlan>& ranks) {
  std::vector<Group> groups;
  for (const RankPlan& rank : ranks) {
    const RankPlan* last = groups.empty() ? nullptr : groups.back().first;
    if (last != nullptr && last->shard.stage == rank.shard.stage &&
        BytesByComponent(*last) == BytesByComponent(rank)) {
      ++groups.back().count;
    } else {
      groups.push_back({&rank, 1});
    }
  }
  return groups;
}

std::string Place(const Group& group) {
  const Shard& shard = group.first->shard;
  const int64_t rank = RankOf(shard);
  return absl::StrCat(group.count == 1 ? "rank " : "each of ranks ", rank,
                      group.count == 1 ? "" : absl::StrCat("-", rank + group.count - 1), " (stage ",
                      shard.stage, ", layers ", shard.layers.begin, "-", shard.layers.end - 1, ")");
}

std::string Count(int64_t n, const PlanInput& input) {
  const bool cpu = input.gpu.spec.device == Device::kCpu;
  return absl::StrCat(n, cpu ? " CPU rank" : " GPU", n == 1 ? "" : "s");
}

}  // namespace

std::string FormatBytes(int64_t bytes) {
  return absl::StrFormat("%.2f GiB (%s bytes)", static_cast<double>(bytes) / (int64_t{1} << 30),
                         Grouped(bytes));
}

std::vector<std::pair<std::string, int64_t>> BytesByComponent(const RankPlan& rank) {
  std::vector<std::pair<std::string, int64_t>> result;
  for (const BufferKind kind : kKinds) {
    int64_t bytes = 0;
    for (const BufferSpec& b : rank.buffers)
      if (b.kind == kind) bytes += b.bytes;
    if (bytes > 0) result.emplace_back(Name(kind), bytes);
  }
  if (rank.reserve_bytes > 0) result.emplace_back("reserve", rank.reserve_bytes);
  return result;
}

std::string DescribeMisfit(const PlanInput& input, const ParallelShape& shape,
                           const std::vector<RankPlan>& ranks) {
  const int64_t cap = UsableBytes(input);
  std::string text = absl::StrCat(Count(shape.ranks(), input), " (best split tp ", shape.tp,
                                  " x pp ", shape.pp, "): a rank may use ", FormatBytes(cap));
  int64_t shown = 0;
  for (const Group& group : GroupAlike(ranks)) {
    const RankPlan& rank = *group.first;
    if (rank.total_bytes <= cap) continue;
    if (++shown > kMostGroups) {
      absl::StrAppend(&text, "\n  and others");
      break;
    }
    absl::StrAppend(&text, "\n  ", Place(group), " needs ", FormatBytes(rank.total_bytes),
                    ", over by ", FormatBytes(rank.total_bytes - cap), ":");
    const char* separator = " ";
    for (const auto& [name, bytes] : BytesByComponent(rank)) {
      absl::StrAppend(&text, separator, name, " ", FormatBytes(bytes));
      separator = ", ";
    }
  }
  return text;
}

std::string Explain(const PlanInput& input, const Plan& plan) {
  std::string text = absl::StrFormat(
      "%s of %s: tp %d x pp %d; %d KV blocks of %d tokens a rank; about %.2f ms a token (%.1f "
      "tokens/s) at batch 1 with half the context cached\n",
      Count(plan.shape.ranks(), input), input.gpu.name, plan.shape.tp, plan.shape.pp,
      plan.kv_blocks, input.limits.block_size, plan.ms_per_token, 1000.0 / plan.ms_per_token);
  absl::StrAppend(&text, "a rank may use ", FormatBytes(UsableBytes(input)), "\n");
  for (const Group& group : GroupAlike(plan.ranks)) {
    const RankPlan& rank = *group.first;
    absl::StrAppend(&text, Place(group), "\n");
    for (const auto& [name, bytes] : BytesByComponent(rank))
      absl::StrAppend(&text, absl::StrFormat("  %-14s %s\n", name, FormatBytes(bytes)));
    absl::StrAppend(&text, absl::StrFormat("  %-14s %s\n", "total", FormatBytes(rank.total_bytes)));
  }
  absl::StrAppend(&text, plan.explanation, "\n");
  for (const std::string& warning : plan.warnings)
    absl::StrAppend(&text, "warning: ", warning, "\n");
  return text;
}

}  // namespace tessera
