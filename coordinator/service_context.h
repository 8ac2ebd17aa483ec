// What the gRPC services share; all borrowed, and alive until the server has shut down.
#pragma once

#include "coordinator/auth.h"
#include "coordinator/clock.h"
#include "coordinator/cluster.h"
#include "coordinator/executor.h"
#include "coordinator/write_stream_options.h"

namespace tessera {

struct ServiceContext {
  Cluster& cluster;
  Executor& executor;
  const Auth& auth;
  const Clock& clock;
  WriteStreamOptions streams;
};

}  // namespace tessera
