#include "client/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <thread>

#include <absl/base/attributes.h>
#include <absl/base/const_init.h>
#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "client/command.h"
#include "common/check.h"

namespace tessera {
namespace {

// Signals concern the whole process, hence the state of the process.
ABSL_CONST_INIT absl::Mutex mutex(absl::kConstInit);
grpc::ClientContext* running ABSL_GUARDED_BY(mutex) = nullptr;
bool interrupted ABSL_GUARDED_BY(mutex) = false;

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

void WaitForSignals() {
  const sigset_t set = WatchedSignals();
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    const absl::MutexLock lock(&mutex);
    if (running == nullptr || interrupted) _exit(kExitInterrupted);
    interrupted = true;
    running->TryCancel();
  }
}

}  // namespace

void InstallInterrupt() {
  const sigset_t set = WatchedSignals();
  TESSERA_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  std::thread(WaitForSignals).detach();
}

bool Interrupted() {
  const absl::MutexLock lock(&mutex);
  return interrupted;
}

void ClearInterrupt() {
  const absl::MutexLock lock(&mutex);
  interrupted = false;
}

CancelOnInterrupt::CancelOnInterrupt(grpc::ClientContext* context) {
  const absl::MutexLock lock(&mutex);
  running = context;
  if (interrupted) context->TryCancel();
}

CancelOnInterrupt::~CancelOnInterrupt() {
  const absl::MutexLock lock(&mutex);
  running = nullptr;
}

}  // namespace tessera
