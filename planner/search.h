// The least number of GPUs that holds a model, and among equals the fastest split.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "common/quant_format.h"
#include "planner/gpus.h"
#include "planner/memory_layout.h"

namespace tessera {

struct PlanInput {
  ModelConfig config;
  EngineLimits limits;  // see ResolveLimits()
  DType dtype = DType::kBf16;
  GpuFacts gpu;              // the device each rank has (the smallest, if they differ)
  int64_t memory_cap = 0;    // bytes a rank may use, all told; 0: kUsableShare of the device
  int64_t sequences = 1;     // of full context that must fit at once
  int64_t max_ranks = 1024;  // ranks there are
  int64_t tp = 0, pp = 0;    // 0: free
};

struct RankPlan {
  Shard shard;
  std::vector<BufferSpec> buffers;
  int64_t reserve_bytes = 0;
  int64_t total_bytes = 0;  // buffers and reserve
};

struct Plan {
  ParallelShape shape;
  int64_t kv_blocks = 0;  // per rank: what memory allows, at most max_sequences full contexts
  std::vector<RankPlan> ranks;
  double ms_per_token = 0;  // predicted, batch 1, half the context cached
  std::string explanation;  // why the next smaller count does not fit
  std::vector<std::string> warnings;
};

// Fills what the user left at 0: the model's context, 64 sequences (or `sequences`, if more), 2048
// tokens a step (512 on the CPU; not below max_sequences), blocks of 64 tokens.
EngineLimits ResolveLimits(const ModelConfig& config, const DeviceSpec& device, EngineLimits limits,
                           int64_t sequences);

// Type of activations and KV where the user names none: fp32 on the CPU; on CUDA the checkpoint's,
// or bf16 for an fp32 checkpoint.
DType DefaultDType(const ModelConfig& config, const DeviceSpec& device);

// Bytes a rank may use: memory_cap, or kUsableShare of the device.
int64_t UsableBytes(const PlanInput& input);

// kResourceExhausted: no split over at most max_ranks fits; the message gives, for the best one,
// bytes needed and available per component. kInvalidArgument: limits out of range, or a tp/pp that
// the model's heads or layers refuse.
absl::StatusOr<Plan> FindPlan(const PlanInput& input);

// The plan as text for people: one line per rank and component, GiB with two decimals.
std::string Explain(const PlanInput& input, const Plan& plan);

}  // namespace tessera
