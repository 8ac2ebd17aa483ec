#include "kernels/op_trace.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "common/check.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

// The table's functions carry no state of their own.
OpTrace* current = nullptr;
const Ops* base = nullptr;

template <typename Args>
std::string Label(const char* name, const Args&) {
  return name;
}
std::string Label(const char* name, const LinearArgs& args) {
  return absl::StrCat(name, args.gated ? " gated " : " ", args.gated ? 2 * args.n : args.n, " x ",
                      args.k, args.norm_weight != nullptr ? " normed" : "");
}

template <auto kMember, typename Args>
absl::Status Traced(const char* name, const Args& args, const Stream& stream) {
  return current->Time(Label(name, args), stream, [&] { return (base->*kMember)(args, stream); });
}

constexpr Ops kTracedOps = {
    .prepare_step =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::prepare_step>("prepare_step", a, s);
        },
    .embed = [](const auto& a, const Stream& s) { return Traced<&Ops::embed>("embed", a, s); },
    .rms_norm = [](const auto& a,
                   const Stream& s) { return Traced<&Ops::rms_norm>("rms_norm", a, s); },
    .linear = [](const auto& a, const Stream& s) { return Traced<&Ops::linear>("linear", a, s); },
    .linear_sequence = [](const auto& a, const Stream& s) -> absl::Status {
      // Apart, so that each has its time, whether or not it is taken.
      for (int i = 0; i < a.count; ++i)
        RETURN_IF_ERROR(Traced<&Ops::linear>("linear", a.products[i], s));
      return absl::OkStatus();
    },
    .rope_kv_write =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::rope_kv_write>("rope_kv_write", a, s);
        },
    .paged_attention =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::paged_attention>("paged_attention", a, s);
        },
    .count_tokens =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::count_tokens>("count_tokens", a, s);
        },
    .sample = [](const auto& a, const Stream& s) { return Traced<&Ops::sample>("sample", a, s); },
    .token_logprobs =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::token_logprobs>("token_logprobs", a, s);
        },
    .random_fill = [](const auto& a,
                      const Stream& s) { return Traced<&Ops::random_fill>("random_fill", a, s); },
    .residual_add =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::residual_add>("residual_add", a, s);
        },
    .copy_columns =
        [](const auto& a, const Stream& s) {
          return Traced<&Ops::copy_columns>("copy_columns", a, s);
        },
    .silu_mul = [](const auto& a,
                   const Stream& s) { return Traced<&Ops::silu_mul>("silu_mul", a, s); },
    .repack = [](const auto& a, const Stream& s) { return Traced<&Ops::repack>("repack", a, s); },
};

}  // namespace

OpTrace::OpTrace(const Ops& base_ops, Runtime& runtime) : runtime_(runtime), ops_(kTracedOps) {
  TESSERA_CHECK(current == nullptr, "a second OpTrace");
  current = this;
  base = &base_ops;
}

OpTrace::~OpTrace() { current = nullptr; }

absl::Status OpTrace::Time(const std::string& label, const Stream& stream,
                           const std::function<absl::Status()>& op) {
  if (!recording_) return op();
  ASSIGN_OR_RETURN(std::unique_ptr<Stopwatch> watch, runtime_.NewStopwatch());
  RETURN_IF_ERROR(watch->Start(stream));
  RETURN_IF_ERROR(op());
  RETURN_IF_ERROR(watch->Stop(stream));
  samples_.push_back({label, std::move(watch)});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OpTime>> OpTrace::Stop() {
  recording_ = false;
  std::vector<OpTime> times;
  for (const Sample& sample : samples_) {
    ASSIGN_OR_RETURN(const double us, sample.watch->Micros());
    auto time = std::find_if(times.begin(), times.end(),
                             [&](const OpTime& t) { return t.label == sample.label; });
    if (time == times.end()) time = times.insert(times.end(), {.label = sample.label});
    ++time->calls;
    time->us += us;
  }
  samples_.clear();
  return times;
}

}  // namespace tessera
