// Where the time of a step goes: device time of every op, summed by kind and shape.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"

namespace tessera {

struct OpTime {
  std::string label;  // "linear 4608 x 3584"
  int64_t calls = 0;
  double us = 0;  // of all calls together
};

// An op table that times its ops between Start() and Stop() and otherwise passes them on. Each op
// is bracketed by two device events, which cost about 2 us a pair on a GPU and keep kernels from
// overlapping: read the shares, not the sum. At most one exists in a process; used by the engine
// thread.
class OpTrace {
 public:
  // Both outlive the trace.
  OpTrace(const Ops& base, Runtime& runtime);
  ~OpTrace();
  OpTrace(const OpTrace&) = delete;
  OpTrace& operator=(const OpTrace&) = delete;

  const Ops& ops() const { return ops_; }

  void Start() { recording_ = true; }
  // Waits for the device. Sums by label, in the order of first use. kInternal: the device refused.
  absl::StatusOr<std::vector<OpTime>> Stop();

  // Runs `op`, timed under `label` while recording. For what is not in the table: communicators.
  absl::Status Time(const std::string& label, const Stream& stream,
                    const std::function<absl::Status()>& op);

 private:
  struct Sample {
    std::string label;
    std::unique_ptr<Stopwatch> watch;
  };

  Runtime& runtime_;
  Ops ops_;
  bool recording_ = false;
  std::vector<Sample> samples_;
};

}  // namespace tessera
