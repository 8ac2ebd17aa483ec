// A table of where the device's time goes, kernel by kernel, while a program runs as usual (CUDA
// graphs and overlapping launches included). Loaded into a process by CUDA itself:
//   CUDA_INJECTION64_PATH=.../libtessera_kernel_trace.so KERNEL_TRACE_OUT=FILE program ...
// FILE (one a process: its pid is appended) is rewritten each second while there is work. It covers
// the last KERNEL_TRACE_WINDOW_MS milliseconds of device work [1000].
//
// A kernel's time is what it adds to the stream of work: from the end of what ended before it, or
// its own start if that came later, to its own end. Idle is the time in front of it in which
// nothing ran. Both add up to the window.
#include <cupti.h>
#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;
constexpr size_t kMaxSpans = 2'000'000;
constexpr const char* kStepKernel = "PrepareStepKernel";

struct Span {
  uint64_t start, end;
  std::string name;
};

std::mutex mutex;
std::vector<Span> spans;

// "tessera::GemvKernel<...>(...)" as "GemvKernel"; a mangled name that cannot be read stays.
std::string ShortName(const char* mangled) {
  int status = 0;
  char* plain = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? plain : mangled;
  std::free(plain);
  for (const char* gone : {"tessera::", "(anonymous namespace)::", "gemv::", "void "})
    for (size_t at; (at = name.find(gone)) != std::string::npos;)
      name.erase(at, std::string(gone).size());
  return name.substr(0, name.find('('));
}

const std::string& KernelName(const char* mangled) {
  static std::map<const char*, std::string> names;  // CUPTI keeps one copy of each name
  const auto known = names.find(mangled);
  return known != names.end() ? known->second : names[mangled] = ShortName(mangled);
}

void Add(const CUpti_Activity* record) {
  if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto* k = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
    spans.push_back({k->start, k->end,
                     KernelName(k->name) + " grid " + std::to_string(k->gridX) + " x " +
                         std::to_string(k->gridY)});
  } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto* c = reinterpret_cast<const CUpti_ActivityMemcpy5*>(record);
    spans.push_back({c->start, c->end,
                     c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "copy in"
                     : c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "copy out"
                                                                      : "copy"});
  }
}

void CUPTIAPI GiveBuffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *max_records = 0;
}

void CUPTIAPI TakeBuffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard<std::mutex> lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) Add(record);
  if (spans.size() > kMaxSpans)
    spans.erase(spans.begin(), spans.begin() + static_cast<int64_t>(spans.size() / 2));
  std::free(buffer);
}

struct Total {
  int64_t calls = 0;
  double busy_us = 0, idle_us = 0;
};

void Write(const char* out) {
  const std::lock_guard<std::mutex> lock(mutex);
  static uint64_t written = 0;
  if (spans.empty() || spans.back().end == written) return;
  written = spans.back().end;
  const char* window = std::getenv("KERNEL_TRACE_WINDOW_MS");
  const double window_ns = 1e6 * (window != nullptr ? std::atof(window) : 1000.);
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.end < b.end; });
  const uint64_t last = spans.back().end;
  std::map<std::string, Total> totals;
  uint64_t previous = 0, first = 0;
  int64_t steps = 0;
  for (const Span& s : spans) {
    if (static_cast<double>(last - s.end) > window_ns) continue;
    if (previous == 0) {
      first = previous = s.end;
      continue;
    }
    Total& total = totals[s.name];
    ++total.calls;
    if (s.start > previous) total.idle_us += static_cast<double>(s.start - previous) / 1e3;
    total.busy_us += static_cast<double>(s.end - std::max(s.start, previous)) / 1e3;
    steps += s.name.find(kStepKernel) != std::string::npos ? 1 : 0;
    previous = s.end;
  }
  std::FILE* file = std::fopen((std::string(out) + "." + std::to_string(getpid())).c_str(), "w");
  if (file == nullptr) return;
  const double wall = static_cast<double>(last - first) / 1e3;
  std::fprintf(file, "%.1f ms, %lld steps, %.1f us a step\n", wall / 1e3,
               static_cast<long long>(steps),
               wall / static_cast<double>(std::max<int64_t>(steps, 1)));
  std::vector<std::pair<std::string, Total>> rows(totals.begin(), totals.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.busy_us > b.second.busy_us; });
  const double n = static_cast<double>(std::max<int64_t>(steps, 1));
  std::fprintf(file, "%10s %10s %10s %10s  kernel\n", "calls/step", "us/step", "idle/step",
               "us/call");
  for (const auto& [name, t] : rows)
    std::fprintf(file, "%10.2f %10.2f %10.2f %10.2f  %s\n", static_cast<double>(t.calls) / n,
                 t.busy_us / n, t.idle_us / n, t.busy_us / static_cast<double>(t.calls),
                 name.c_str());
  std::fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(GiveBuffer, TakeBuffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  if (const char* out = std::getenv("KERNEL_TRACE_OUT")) {
    std::thread([out] {
      for (;;) {
        std::this_thread::sleep_for(std::chrono::seconds(1));
        cuptiActivityFlushAll(1);
        Write(out);
      }
    }).detach();
  }
  return 1;
}
