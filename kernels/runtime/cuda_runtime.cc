#include "kernels/runtime/cuda_runtime.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include <absl/strings/str_cat.h>
#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"

namespace tessera {
namespace {

// For destructors and frees: there is no one to hand a Status to.
void LogIfError(cudaError_t error, const char* what) {
  if (error != cudaSuccess) LogError(CudaStatus(error, what).ToString());
}

std::string VersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

class CudaEvent : public Event {
 public:
  explicit CudaEvent(cudaEvent_t event) : event_(event) {}
  ~CudaEvent() override { LogIfError(cudaEventDestroy(event_), "event destroy"); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  absl::Status Record(const Stream& stream) override {
    return CudaStatus(cudaEventRecord(event_, stream.cuda), "event record");
  }
  absl::StatusOr<bool> Done() override {
    const cudaError_t error = cudaEventQuery(event_);
    if (error == cudaSuccess) return true;
    if (error != cudaErrorNotReady) return CudaStatus(error, "event query");
    (void)cudaGetLastError();  // or the next launch's check would report "not ready"
    return false;
  }
  absl::Status Wait() override { return CudaStatus(cudaEventSynchronize(event_), "event wait"); }
  absl::Status Delay(const Stream& stream) override {
    return CudaStatus(cudaStreamWaitEvent(stream.cuda, event_, 0), "stream wait for event");
  }

 private:
  cudaEvent_t event_;
};

class CudaStopwatch : public Stopwatch {
 public:
  CudaStopwatch(cudaEvent_t start, cudaEvent_t stop) : start_(start), stop_(stop) {}
  ~CudaStopwatch() override {
    LogIfError(cudaEventDestroy(start_), "event destroy");
    LogIfError(cudaEventDestroy(stop_), "event destroy");
  }
  CudaStopwatch(const CudaStopwatch&) = delete;
  CudaStopwatch& operator=(const CudaStopwatch&) = delete;

  absl::Status Start(const Stream& stream) override {
    return CudaStatus(cudaEventRecord(start_, stream.cuda), "event record");
  }
  absl::Status Stop(const Stream& stream) override {
    return CudaStatus(cudaEventRecord(stop_, stream.cuda), "event record");
  }
  absl::StatusOr<double> Micros() override {
    RETURN_IF_CUDA_ERROR(cudaEventSynchronize(stop_), "event wait");
    float ms = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&ms, start_, stop_), "event time");
    return ms * 1000.0;
  }

 private:
  cudaEvent_t start_, stop_;
};

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(cudaGraphExec_t exec) : exec_(exec) {}
  ~CudaGraph() override { LogIfError(cudaGraphExecDestroy(exec_), "graph destroy"); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  absl::Status Launch(const Stream& stream) override {
    return CudaStatus(cudaGraphLaunch(exec_, stream.cuda), "graph launch");
  }

 private:
  cudaGraphExec_t exec_;
};

class CudaRuntime : public Runtime {
 public:
  explicit CudaRuntime(int device_index) : device_index_(device_index) {}
  ~CudaRuntime() override {
    for (const Stream& stream : {main_, side_})
      if (stream.cuda != nullptr) LogIfError(cudaStreamDestroy(stream.cuda), "stream destroy");
  }
  CudaRuntime(const CudaRuntime&) = delete;
  CudaRuntime& operator=(const CudaRuntime&) = delete;

  // Non-blocking: neither stream waits for work that a library puts on the default stream.
  absl::Status CreateStreams() {
    RETURN_IF_CUDA_ERROR(cudaSetDevice(device_index_), "set device");
    int least = 0, greatest = 0;
    RETURN_IF_CUDA_ERROR(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithPriority(&main_.cuda, cudaStreamNonBlocking, greatest),
                         "main stream");
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithPriority(&side_.cuda, cudaStreamNonBlocking, least),
                         "side stream");
    return absl::OkStatus();
  }

  Device device() const override { return Device::kCuda; }
  absl::StatusOr<DeviceFacts> Facts() const override;

  const Stream& main_stream() const override { return main_; }
  const Stream& side_stream() const override { return side_; }

  absl::StatusOr<void*> AllocateDevice(int64_t bytes) override;
  void FreeDevice(void* pointer) override { LogIfError(cudaFree(pointer), "device free"); }
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override;
  void FreePinned(void* pointer) override { LogIfError(cudaFreeHost(pointer), "pinned free"); }

  absl::Status Copy(void* dst, const void* src, int64_t bytes, const Stream& stream) override {
    if (bytes <= 0) return absl::OkStatus();
    return CudaStatus(
        cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDefault, stream.cuda),
        "copy");
  }
  absl::Status Zero(void* dst, int64_t bytes, const Stream& stream) override {
    if (bytes <= 0) return absl::OkStatus();
    return CudaStatus(cudaMemsetAsync(dst, 0, static_cast<size_t>(bytes), stream.cuda), "zero");
  }
  absl::Status Synchronize(const Stream& stream) override {
    return CudaStatus(cudaStreamSynchronize(stream.cuda), "synchronize");
  }

  absl::StatusOr<std::unique_ptr<Event>> NewEvent() override {
    cudaEvent_t event = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event create");
    return std::make_unique<CudaEvent>(event);
  }
  absl::StatusOr<std::unique_ptr<Stopwatch>> NewStopwatch() override {
    cudaEvent_t start = nullptr, stop = nullptr;
    RETURN_IF_CUDA_ERROR(cudaEventCreate(&start), "event create");
    const cudaError_t error = cudaEventCreate(&stop);
    if (error != cudaSuccess) {
      LogIfError(cudaEventDestroy(start), "event destroy");
      return CudaStatus(error, "event create");
    }
    return std::make_unique<CudaStopwatch>(start, stop);
  }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(
      const std::function<absl::Status()>& enqueue) override;

  void PushRange(const char* name) override { nvtxRangePushA(name); }
  void PopRange() override { nvtxRangePop(); }

 private:
  const int device_index_;
  Stream main_{.device = Device::kCuda, .cuda = nullptr, .pool = nullptr};
  Stream side_{.device = Device::kCuda, .cuda = nullptr, .pool = nullptr};
};

absl::StatusOr<DeviceFacts> CudaRuntime::Facts() const {
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, device_index_), "device properties");
  size_t free_bytes = 0, total_bytes = 0;
  RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free_bytes, &total_bytes), "device memory");
  DeviceFacts facts;
  facts.name = properties.name;
  facts.total_bytes = static_cast<int64_t>(total_bytes);
  facts.free_bytes = static_cast<int64_t>(free_bytes);
  facts.sm_count = properties.multiProcessorCount;
  facts.compute_capability = properties.major * 10 + properties.minor;
  // The driver's own number: CUDA tells only the newest CUDA version that the driver knows.
  std::ifstream("/sys/module/nvidia/version") >> facts.driver_version;
  int runtime = 0;
  RETURN_IF_CUDA_ERROR(cudaRuntimeGetVersion(&runtime), "runtime version");
  facts.runtime_version = VersionText(runtime);
  return facts;
}

absl::StatusOr<void*> CudaRuntime::AllocateDevice(int64_t bytes) {
  if (bytes < 0)
    return absl::InvalidArgumentError(absl::StrCat("device memory: ", bytes, " bytes"));
  void* pointer = nullptr;
  const cudaError_t error = cudaMalloc(&pointer, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (error == cudaSuccess) return pointer;
  (void)
      cudaGetLastError();  // a refused allocation is the caller's to handle, not the next launch's
  size_t free_bytes = 0, total_bytes = 0;
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  return CudaStatus(error, absl::StrCat("device memory: ", bytes, " bytes asked for, ", free_bytes,
                                        " bytes free"));
}

absl::StatusOr<void*> CudaRuntime::AllocatePinned(int64_t bytes) {
  if (bytes < 0)
    return absl::InvalidArgumentError(absl::StrCat("pinned memory: ", bytes, " bytes"));
  void* pointer = nullptr;
  const cudaError_t error = cudaHostAlloc(
      &pointer, static_cast<size_t>(std::max<int64_t>(bytes, 1)), cudaHostAllocDefault);
  if (error == cudaSuccess) return pointer;
  (void)cudaGetLastError();
  return CudaStatus(error, absl::StrCat("pinned memory: ", bytes, " bytes asked for"));
}

absl::StatusOr<std::unique_ptr<Graph>> CudaRuntime::Capture(
    const std::function<absl::Status()>& enqueue) {
  // Thread-local: other threads (the watchdog's, NCCL's own) may go on calling CUDA meanwhile.
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(main_.cuda, cudaStreamCaptureModeThreadLocal),
                       "capture begin");
  const absl::Status enqueued = enqueue();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(main_.cuda, &graph);
  if (!enqueued.ok() || ended != cudaSuccess) {
    if (graph != nullptr) LogIfError(cudaGraphDestroy(graph), "graph destroy");
    (void)cudaGetLastError();  // an invalidated capture leaves its error behind
    return enqueued.ok() ? CudaStatus(ended, "capture end") : enqueued;
  }
  cudaGraphExec_t exec = nullptr;
  const cudaError_t instantiated = cudaGraphInstantiate(&exec, graph, 0);
  LogIfError(cudaGraphDestroy(graph), "graph destroy");
  RETURN_IF_CUDA_ERROR(instantiated, "graph instantiate");
  auto result = std::make_unique<CudaGraph>(exec);
  // Without the upload the first launch pays for it.
  RETURN_IF_CUDA_ERROR(cudaGraphUpload(exec, main_.cuda), "graph upload");
  return result;
}

}  // namespace

absl::Status CheckDriver(int driver, int runtime) {
  if (driver == 0)
    return absl::FailedPreconditionError(
        absl::StrCat("no NVIDIA driver found; CUDA ", VersionText(runtime), " needs one"));
  if (driver / 1000 < runtime / 1000)
    return absl::FailedPreconditionError(
        absl::StrCat("the NVIDIA driver supports CUDA ", VersionText(driver),
                     ", this program needs CUDA ", VersionText(runtime), ": update the driver"));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Runtime>> NewCudaRuntime(int device_index) {
  int driver = 0, built_for = 0, devices = 0;
  RETURN_IF_CUDA_ERROR(cudaDriverGetVersion(&driver), "driver version");
  RETURN_IF_CUDA_ERROR(cudaRuntimeGetVersion(&built_for), "runtime version");
  RETURN_IF_ERROR(CheckDriver(driver, built_for));
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess && counted != cudaErrorNoDevice)
    return absl::FailedPreconditionError(absl::StrCat(CudaStatus(counted, "device count").message(),
                                                      " (driver for CUDA ", VersionText(driver),
                                                      ", runtime ", VersionText(built_for), ")"));
  if (device_index < 0 || device_index >= devices)
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA device ", device_index, " asked for, ", devices, " present"));
  auto runtime = std::make_unique<CudaRuntime>(device_index);
  RETURN_IF_ERROR(runtime->CreateStreams());
  return runtime;
}

}  // namespace tessera
