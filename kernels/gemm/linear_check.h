// What both back ends refuse about LinearArgs.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// The errors that linear.h promises, before any work: kInvalidArgument, kUnimplemented.
// `sm_count` as in LinearWorkspaceBytes().
absl::Status CheckLinear(const LinearArgs& args, Device device, int sm_count);

// The parts of args.workspace on CUDA; a part that the product does not need has no bytes.
struct LinearWorkspace {
  void* library = nullptr;
  int64_t library_bytes = 0;
  void* normed = nullptr;   // [t, k] of `dtype`
  void* ungated = nullptr;  // [t, 2n] of `dtype`
};
LinearWorkspace SplitLinearWorkspace(const LinearArgs& args);

}  // namespace tessera
