// Between the wire (proto/cluster.proto) and the engine's own types.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/runtime/runtime.h"
#include "model/config.h"
#include "planner/memory_layout.h"
#include "proto/cluster.pb.h"
#include "worker/sequence.h"

namespace tessera {

SequenceRequest RequestOf(const internal::Submit& submit);

// Appends an update as an event of `batch`, produced at this moment.
void AddEvent(const SequenceUpdate& update, internal::TokenBatch& batch);
// The end of a sequence that could not run.
void AddError(uint64_t sequence, const absl::Status& error, internal::TokenBatch& batch);

EngineLimits LimitsOf(const tessera::v1::ModelOptions& options);

// What rank `group_rank` of the group is to hold.
// kInvalidArgument, kUnimplemented: as LoadModelConfig, MakeShard, ParseFloatDType and, for
// dummy weights of a named format, ParseQuantFormat say.
absl::StatusOr<LayoutInput> LayoutOf(const internal::LoadShard& load, int group_rank,
                                     const DeviceSpec& device);

internal::Register RegisterOf(int rank, int ranks, Device device, const DeviceFacts& facts);

}  // namespace tessera
