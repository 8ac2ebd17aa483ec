// Ctrl-C (SIGINT) and SIGTERM: cancel the call that runs, or end the program when none does.
#pragma once

#include <grpcpp/grpcpp.h>

namespace tessera {

// Starts the thread that waits for the two signals. Call once in main() before other threads start:
// they inherit the blocked signals. A second signal ends the program at once.
void InstallInterrupt();

// Whether a signal came since the last call of ClearInterrupt().
bool Interrupted();
void ClearInterrupt();

// While it lives, a signal cancels `context`, which must outlive it. One at a time.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext* context);
  ~CancelOnInterrupt();
  CancelOnInterrupt(const CancelOnInterrupt&) = delete;
  CancelOnInterrupt& operator=(const CancelOnInterrupt&) = delete;
};

}  // namespace tessera
