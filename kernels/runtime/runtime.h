// Device memory, copies, events and graphs, for one device and one process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/runtime/stream.h"

namespace tessera {

// A point in a stream. On the CPU every op has finished when it returns, so an event is always
// done.
class Event {
 public:
  virtual ~Event() = default;
  virtual absl::Status Record(const Stream& stream) = 0;
  // True when all work before the last Record() has finished. kInternal: the device reported an
  // error.
  virtual absl::StatusOr<bool> Done() = 0;
  // Blocks the host until Done().
  virtual absl::Status Wait() = 0;
  // Makes later work on `stream` wait for the event, without blocking the host.
  virtual absl::Status Delay(const Stream& stream) = 0;
};

// Device time between two points of a stream.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  virtual absl::Status Start(const Stream& stream) = 0;
  virtual absl::Status Stop(const Stream& stream) = 0;
  // Waits for the second point. kInternal: the device reported an error.
  virtual absl::StatusOr<double> Micros() = 0;
};

// A captured sequence of ops, replayed with the same addresses and shapes.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual absl::Status Launch(const Stream& stream) = 0;
};

struct DeviceFacts {
  std::string name;             // "NVIDIA H200", or the CPU's model name
  int64_t total_bytes = 0;      // device memory
  int64_t free_bytes = 0;       // what could be allocated at the time of asking
  int sm_count = 1;             // multiprocessors; threads on the CPU
  int compute_capability = 0;   // 90 for sm_90; 0 on the CPU
  std::string driver_version;   // "580.65.06"; empty on the CPU, or when the driver does not tell
  std::string runtime_version;  // of CUDA, "13.0"; empty on the CPU
};

class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual Device device() const = 0;
  virtual absl::StatusOr<DeviceFacts> Facts() const = 0;

  // The stream all model work is ordered on, and one beside it for copies and side transfers.
  virtual const Stream& main_stream() const = 0;
  virtual const Stream& side_stream() const = 0;

  // Device memory, aligned to 256 bytes. kResourceExhausted: names the bytes asked for and free.
  // kInvalidArgument: negative (also AllocatePinned).
  virtual absl::StatusOr<void*> AllocateDevice(int64_t bytes) = 0;
  virtual void FreeDevice(void* pointer) = 0;
  // Host memory the device copies from and to at full speed.
  virtual absl::StatusOr<void*> AllocatePinned(int64_t bytes) = 0;
  virtual void FreePinned(void* pointer) = 0;

  // Asynchronous on CUDA (host memory must be pinned and stay alive), immediate on the CPU.
  virtual absl::Status Copy(void* dst, const void* src, int64_t bytes, const Stream& stream) = 0;
  virtual absl::Status Zero(void* dst, int64_t bytes, const Stream& stream) = 0;
  virtual absl::Status Synchronize(const Stream& stream) = 0;

  virtual absl::StatusOr<std::unique_ptr<Event>> NewEvent() = 0;

  virtual absl::StatusOr<std::unique_ptr<Stopwatch>> NewStopwatch() = 0;

  // Runs `enqueue` on main_stream() while capturing, and returns the graph; nothing is executed.
  // kUnimplemented: the device has no graphs (CPU): callers run the ops directly.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Capture(
      const std::function<absl::Status()>& enqueue) = 0;

  // Marks a named range on the calling thread for profilers (NVTX on CUDA). Ranges nest.
  virtual void PushRange(const char* name) = 0;
  virtual void PopRange() = 0;
};

// A profiler range for the life of the object.
class ProfilerRange {
 public:
  ProfilerRange(Runtime& runtime, const char* name) : runtime_(runtime) {
    runtime_.PushRange(name);
  }
  ~ProfilerRange() { runtime_.PopRange(); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  Runtime& runtime_;
};

struct RuntimeOptions {
  Device device = Device::kCpu;
  int device_index = 0;  // CUDA device ordinal
  int cpu_threads = 1;   // threads of the CPU back end
};

// kUnimplemented: kCuda in a build without it. kFailedPrecondition: no such device, or a driver too
// old. kInvalidArgument: cpu_threads below 1.
absl::StatusOr<std::unique_ptr<Runtime>> NewRuntime(const RuntimeOptions& options);

}  // namespace tessera
