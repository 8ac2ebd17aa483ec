// A group of one, on either device.
#pragma once

#include <memory>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// `ops` must outlive the result.
std::unique_ptr<Communicator> NewSelfCommunicator(const Ops& ops);

}  // namespace tessera
