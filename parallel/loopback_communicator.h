// N ranks as threads of one process, for tests: CPU streams only.
#pragma once

#include <memory>
#include <vector>

#include <absl/time/time.h>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// Communicators of one group, element i for rank i, each used by a thread of its own. An operation
// that a peer does not join within `timeout` returns kUnavailable, as do all later ones of the
// group. Ranks that call different operations or sizes at the same point are a bug: the process
// ends with both in the message. Send returns at once: the bytes wait for the peer's Recv. `ops`
// must outlive the communicators; they share what they need and may die in any order.
std::vector<std::unique_ptr<Communicator>> NewLoopbackGroup(
    int ranks, const Ops& ops, absl::Duration timeout = absl::Seconds(30));

}  // namespace tessera
