#include "kernels/runtime/cpu_runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

constexpr int64_t kAlignment = 256;

// The text after "key<blanks>:" in the first line of `path` that starts with `key`; empty when
// there is none.
std::string ProcField(const char* path, absl::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, key)) continue;
    const size_t colon = rest.find(':');
    if (colon == absl::string_view::npos) continue;
    return std::string(absl::StripAsciiWhitespace(rest.substr(colon + 1)));
  }
  return "";
}

// A "12345 kB" field of /proc/meminfo in bytes; 0 when absent.
int64_t MemoryBytes(absl::string_view key) {
  const std::string field = ProcField("/proc/meminfo", key);
  absl::string_view text = field;
  absl::ConsumeSuffix(&text, " kB");
  int64_t kilobytes = 0;
  return absl::SimpleAtoi(text, &kilobytes) ? kilobytes * 1024 : 0;
}

// Ops have finished when they return, so there is never anything to wait for.
class CpuEvent : public Event {
 public:
  absl::Status Record(const Stream&) override { return absl::OkStatus(); }
  absl::StatusOr<bool> Done() override { return true; }
  absl::Status Wait() override { return absl::OkStatus(); }
  absl::Status Delay(const Stream&) override { return absl::OkStatus(); }
};

class CpuStopwatch : public Stopwatch {
 public:
  absl::Status Start(const Stream&) override {
    start_ = std::chrono::steady_clock::now();
    return absl::OkStatus();
  }
  absl::Status Stop(const Stream&) override {
    stop_ = std::chrono::steady_clock::now();
    return absl::OkStatus();
  }
  absl::StatusOr<double> Micros() override {
    return std::chrono::duration<double, std::micro>(stop_ - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_, stop_;
};

class CpuRuntime : public Runtime {
 public:
  explicit CpuRuntime(int threads)
      : pool_(threads), stream_{.device = Device::kCpu, .cuda = nullptr, .pool = &pool_} {}

  Device device() const override { return Device::kCpu; }
  absl::StatusOr<DeviceFacts> Facts() const override {
    DeviceFacts facts;
    facts.name = ProcField("/proc/cpuinfo", "model name");
    if (facts.name.empty()) facts.name = "CPU";
    facts.total_bytes = MemoryBytes("MemTotal");
    facts.free_bytes = MemoryBytes("MemAvailable");
    facts.sm_count = pool_.threads();
    return facts;
  }

  const Stream& main_stream() const override { return stream_; }
  const Stream& side_stream() const override { return stream_; }

  absl::StatusOr<void*> AllocateDevice(int64_t bytes) override { return Allocate(bytes); }
  void FreeDevice(void* pointer) override { std::free(pointer); }
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override { return Allocate(bytes); }
  void FreePinned(void* pointer) override { std::free(pointer); }

  absl::Status Copy(void* dst, const void* src, int64_t bytes, const Stream&) override {
    if (bytes > 0) std::memcpy(dst, src, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status Zero(void* dst, int64_t bytes, const Stream&) override {
    if (bytes > 0) std::memset(dst, 0, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status Synchronize(const Stream&) override { return absl::OkStatus(); }

  absl::StatusOr<std::unique_ptr<Event>> NewEvent() override {
    return std::make_unique<CpuEvent>();
  }
  absl::StatusOr<std::unique_ptr<Stopwatch>> NewStopwatch() override {
    return std::make_unique<CpuStopwatch>();
  }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(const std::function<absl::Status()>&) override {
    return absl::UnimplementedError("cpu: ops run at once, there are no graphs");
  }

  void PushRange(const char*) override {}
  void PopRange() override {}

 private:
  // Linux hands out more address space than there is memory and kills the process later, so the
  // size is held against MemAvailable first.
  static absl::StatusOr<void*> Allocate(int64_t bytes) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cpu: ", bytes, " bytes"));
    const int64_t free_bytes = MemoryBytes("MemAvailable");
    const bool fits = free_bytes == 0 || bytes <= free_bytes;
    const int64_t rounded = (bytes / kAlignment + 1) * kAlignment;
    void* pointer =
        fits ? std::aligned_alloc(size_t{kAlignment}, static_cast<size_t>(rounded)) : nullptr;
    if (pointer == nullptr)
      return absl::ResourceExhaustedError(
          absl::StrCat("cpu: ", bytes, " bytes asked for, ", free_bytes, " bytes free"));
    return pointer;
  }

  CpuPool pool_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<Runtime> NewCpuRuntime(int threads) {
  return std::make_unique<CpuRuntime>(threads);
}

}  // namespace tessera
