// A model over N in-process ranks (loopback communicators, CPU) or one GPU, driven through
// scheduler, plans and engines as the worker drives them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "common/dtype.h"
#include "kernels/ops.h"
#include "kernels/runtime/stream.h"
#include "worker/sequence.h"

namespace tessera::testing {

struct LocalClusterOptions {
  std::string model_dir;
  int64_t tp = 1, pp = 1;
  int64_t max_sequences = 4;
  int64_t max_step_tokens = 64;
  int64_t block_size = 16;
  int64_t kv_blocks = 0;  // 0: enough for max_sequences of `context`
  int64_t context = 512;
  bool dummy = false;
  int threads = 1;
  Device device = Device::kCpu;  // kCuda: one rank
  DType dtype = DType::kF32;     // of activations
  bool graphs = true;
  const Ops* ops = nullptr;  // null: the device's
};

// What became of one sequence.
struct LocalResult {
  std::vector<SampledToken> tokens;
  std::vector<float> prompt_logprobs;
  FinishKind finish = FinishKind::kNone;
  std::vector<int32_t> ids() const;
};

// Runs all requests to their ends, submitted at once; keyed by request id. Errors of any rank are
// returned.
absl::StatusOr<std::map<uint64_t, LocalResult>> RunLocally(const LocalClusterOptions& options,
                                                           std::vector<SequenceRequest> requests);

// A greedy request with log-probabilities of `logprobs` candidates.
SequenceRequest GreedyRequest(uint64_t id, std::vector<int32_t> prompt, int64_t max_tokens,
                              int logprobs = 5);

}  // namespace tessera::testing
