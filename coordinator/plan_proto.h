// A plan as the API shows it.
#pragma once

#include "planner/search.h"
#include "proto/inference.pb.h"

namespace tessera {

// Buffers are summed by kind; the reserve is a kind of its own.
v1::PlanResponse ToProto(const Plan& plan);

}  // namespace tessera
