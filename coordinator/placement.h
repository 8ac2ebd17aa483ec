// Which ranks a model gets, and with what options: pure functions of the request and the idle
// ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include "model/config.h"
#include "planner/gpus.h"
#include "planner/search.h"
#include "proto/cluster.pb.h"
#include "proto/inference.pb.h"

namespace tessera {

// FindPlan, or what tests put in its place.
using PlanFunction = std::function<absl::StatusOr<Plan>(const PlanInput&)>;

// Every option filled in, as workers get them: no zero and no empty text means "default" any more,
// except tp, pp and device_memory_bytes, which the plan settles, and quant and chat_template.
// kInvalidArgument: a number out of its range (named, with the value). kUnimplemented: an unknown
// dtype or load format.
absl::StatusOr<v1::ModelOptions> ResolveOptions(const v1::ModelOptions& options,
                                                const ModelConfig& config, Device device);

// The planner's input for `options`, as ResolveOptions returns them.
PlanInput MakePlanInput(const v1::ModelOptions& options, const ModelConfig& config,
                        const GpuFacts& device);

// One device that stands for all of `ranks` (not empty): the least memory, the fewest SMs.
// `free_bytes`: the least that is free on any of them.
struct PoolDevice {
  GpuFacts facts;
  int64_t free_bytes = 0;
};
PoolDevice CommonDevice(absl::Span<const internal::Register* const> ranks);

// The lowest `count` idle ranks that follow one another, or the lowest ones where no run is long
// enough; in order. `idle` is in order and has at least `count` ranks.
std::vector<int32_t> ChooseRanks(absl::Span<const int32_t> idle, int64_t count);

struct PlacementRequest {
  v1::ModelOptions options;  // the user's
  const ModelConfig* config = nullptr;
  std::vector<const internal::Register*> idle;  // in rank order
  int64_t registered = 0;                       // ranks of the pool, busy ones included
};

struct PlacedModel {
  v1::ModelOptions options;  // resolved, with the plan's tp and pp
  Plan plan;
  std::vector<int32_t> ranks;
};

// kFailedPrecondition: the plan needs more ranks than the pool has; kResourceExhausted: more than
// are idle; both say how many it needs, how many there are, and why fewer do not do.
// kInvalidArgument, kUnimplemented: from the options and from the planner.
absl::StatusOr<PlacedModel> PlaceModel(const PlacementRequest& request,
                                       const PlanFunction& find_plan);

}  // namespace tessera
