// Devices that plans are made for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "planner/memory_layout.h"

namespace tessera {

struct GpuFacts {
  std::string name;  // "h200"; "cpu" for a CPU rank
  DeviceSpec spec;
  int64_t memory_bytes = 0;
  double bandwidth = 0;      // bytes per second, measured or 94 % of the datasheet's
  double all_reduce_us = 0;  // small all-reduce between devices of one host
};

// Share of a device's memory that plans may fill.
inline constexpr double kUsableShare = 0.92;

absl::Span<const GpuFacts> KnownGpus();

// By name in any case: h200, h100-80gb, a100-80gb, a100-40gb, l40s, rtx4090, t4...; h100 and a100
// mean the SXM cards of 80 GB. kNotFound: lists the names.
absl::StatusOr<GpuFacts> FindGpu(absl::string_view name);

// A rank of the CPU back end that may use `memory_bytes`.
GpuFacts CpuRank(int64_t memory_bytes);

// What a worker said of its device when it registered.
struct RegisteredDevice {
  std::string name;  // as the driver spells it: "NVIDIA H200"
  bool cuda = false;
  int64_t total_bytes = 0;
  int sm_count = 0;
};

// Size and multiprocessors as registered, speed from the table's row for that name; a GPU that is
// not in the table gets the slowest row's speed.
GpuFacts FactsOf(const RegisteredDevice& device);

}  // namespace tessera
