#include <cstring>
#include <new>
#include <utility>

#include "common/check.h"
#include "parallel/plan_channel.h"
#include "parallel/plan_ring.h"

namespace tessera {
namespace {

constexpr std::align_val_t kAlign{64};

// Zeroed memory of a ring, freed with the last end.
std::shared_ptr<void> NewRingMemory(const PlanRingShape& shape) {
  const auto bytes = static_cast<size_t>(PlanRing::Bytes(shape));
  void* memory = operator new(bytes, kAlign);
  std::memset(memory, 0, bytes);
  return {memory, [](void* p) { operator delete(p, kAlign); }};
}

class LoopbackPlanChannel : public PlanChannel {
 public:
  LoopbackPlanChannel(std::shared_ptr<void> memory, const PlanRingShape& shape, int rank,
                      const PlanChannelOptions& options)
      : memory_(std::move(memory)), rank_(rank), options_(options), ring_(memory_.get(), shape) {}

  absl::Status Publish(absl::Span<const uint8_t> plan) override {
    if (rank_ != 0) return absl::FailedPreconditionError("plan channel: only the leader publishes");
    return ring_.Write(plan, options_.publish_timeout);
  }

  absl::StatusOr<absl::Span<const uint8_t>> Next(absl::Duration timeout) override {
    if (rank_ == 0)
      return absl::FailedPreconditionError("plan channel: the leader has no plans to wait for");
    return ring_.Read(rank_ - 1, timeout, options_.spin);
  }

 private:
  const std::shared_ptr<void> memory_;
  const int rank_;
  const PlanChannelOptions options_;
  PlanRing ring_;
};

}  // namespace

std::vector<std::unique_ptr<PlanChannel>> NewLoopbackPlanChannels(
    int ranks, const PlanChannelOptions& options) {
  TESSERA_CHECK(ranks > 0 && options.capacity_plans > 0 && options.max_plan_bytes > 0,
                "ranks=", ranks, " capacity_plans=", options.capacity_plans,
                " max_plan_bytes=", options.max_plan_bytes);
  const PlanRingShape shape = {
      .readers = ranks - 1, .slots = options.capacity_plans, .slot_bytes = options.max_plan_bytes};
  const std::shared_ptr<void> memory = NewRingMemory(shape);
  std::vector<std::unique_ptr<PlanChannel>> ends;
  for (int r = 0; r < ranks; ++r)
    ends.push_back(std::make_unique<LoopbackPlanChannel>(memory, shape, r, options));
  return ends;
}

}  // namespace tessera
