#include "coordinator/plan_proto.h"

#include <map>
#include <string>

namespace tessera {

v1::PlanResponse ToProto(const Plan& plan) {
  v1::PlanResponse out;
  out.set_gpus(static_cast<int32_t>(plan.shape.ranks()));
  out.set_tp(static_cast<int32_t>(plan.shape.tp));
  out.set_pp(static_cast<int32_t>(plan.shape.pp));
  out.set_kv_blocks(plan.kv_blocks);
  out.set_predicted_ms_per_token(plan.ms_per_token);
  out.set_explanation(plan.explanation);
  out.mutable_warnings()->Assign(plan.warnings.begin(), plan.warnings.end());
  for (size_t i = 0; i < plan.ranks.size(); ++i) {
    const RankPlan& from = plan.ranks[i];
    v1::PlannedRank& rank = *out.add_ranks();
    rank.set_rank(static_cast<int32_t>(i));
    rank.set_stage(static_cast<int32_t>(from.shard.stage));
    rank.set_tp_rank(static_cast<int32_t>(from.shard.tp_rank));
    rank.set_total_bytes(from.total_bytes);
    std::map<BufferKind, int64_t> bytes;
    for (const BufferSpec& buffer : from.buffers) bytes[buffer.kind] += buffer.bytes;
    for (const auto& [kind, sum] : bytes) {
      v1::PlannedBuffer& buffer = *rank.add_buffers();
      buffer.set_kind(std::string(Name(kind)));
      buffer.set_bytes(sum);
    }
    if (from.reserve_bytes == 0) continue;
    v1::PlannedBuffer& reserve = *rank.add_buffers();
    reserve.set_kind("reserve");
    reserve.set_bytes(from.reserve_bytes);
  }
  return out;
}

}  // namespace tessera
