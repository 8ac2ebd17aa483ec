#include "coordinator/placement.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"

namespace tessera {
namespace {

// Bounds that keep products of options far from overflow.
constexpr int64_t kMaxContext = int64_t{1} << 24;
constexpr int64_t kMaxSequences = 65'536;
constexpr int64_t kMaxStepTokens = int64_t{1} << 20;
constexpr int64_t kMaxBlockSize = 4096;
constexpr int64_t kMaxRanks = 65'536;

struct IntOption {
  absl::string_view name;
  int64_t value;
  int64_t high;
};

absl::Status CheckOption(const IntOption& option) {
  if (option.value >= 0 && option.value <= option.high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("options.", option.name, ": ", option.value,
                                                 " is not in [0, ", option.high, "]"));
}

absl::StatusOr<DType> ResolveDType(absl::string_view wanted, const ModelConfig& config,
                                   Device device) {
  if (wanted.empty()) return DefaultDType(config, {.device = device});
  ASSIGN_OR_RETURN(const DType dtype, ParseFloatDType(wanted));
  if (device == Device::kCpu && dtype != DType::kF32) {
    return absl::UnimplementedError(
        absl::StrCat("options.dtype: ", wanted, "; CPU ranks compute in float32 only"));
  }
  if (device == Device::kCuda && dtype == DType::kF32) {
    return absl::UnimplementedError("options.dtype: float32; GPUs compute in bfloat16 or float16");
  }
  return dtype;
}

}  // namespace

absl::StatusOr<v1::ModelOptions> ResolveOptions(const v1::ModelOptions& options,
                                                const ModelConfig& config, Device device) {
  for (const IntOption& option :
       {IntOption{"context", options.context(), kMaxContext},
        {"max_sequences", options.max_sequences(), kMaxSequences},
        {"max_step_tokens", options.max_step_tokens(), kMaxStepTokens},
        {"block_size", options.block_size(), kMaxBlockSize},
        {"device_memory_bytes", options.device_memory_bytes(), std::numeric_limits<int64_t>::max()},
        {"tp", options.tp(), kMaxRanks},
        {"pp", options.pp(), kMaxRanks}}) {
    RETURN_IF_ERROR(CheckOption(option));
  }
  v1::ModelOptions out = options;
  const EngineLimits limits = ResolveLimits(config, {.device = device},
                                            {.context = options.context(),
                                             .max_sequences = options.max_sequences(),
                                             .max_step_tokens = options.max_step_tokens(),
                                             .block_size = options.block_size()},
                                            /*sequences=*/1);
  out.set_context(limits.context);
  out.set_max_sequences(static_cast<int32_t>(limits.max_sequences));
  out.set_max_step_tokens(static_cast<int32_t>(limits.max_step_tokens));
  out.set_block_size(static_cast<int32_t>(limits.block_size));
  ASSIGN_OR_RETURN(const DType dtype, ResolveDType(options.dtype(), config, device));
  out.set_dtype(std::string(LongName(dtype)));
  if (out.load_format().empty()) out.set_load_format("auto");
  if (out.load_format() != "auto" && out.load_format() != "dummy") {
    return absl::InvalidArgumentError(absl::StrCat(
        "options.load_format: \"", out.load_format().substr(0, 32), "\" is not auto or dummy"));
  }
  return out;
}

PlanInput MakePlanInput(const v1::ModelOptions& options, const ModelConfig& config,
                        const GpuFacts& device) {
  PlanInput input;
  input.config = config;
  input.limits = {.context = options.context(),
                  .max_sequences = options.max_sequences(),
                  .max_step_tokens = options.max_step_tokens(),
                  .block_size = options.block_size()};
  input.dtype = ParseFloatDType(options.dtype()).value_or(DType::kF32);
  input.gpu = device;
  input.memory_cap = options.device_memory_bytes();
  input.tp = options.tp();
  input.pp = options.pp();
  return input;
}

PoolDevice CommonDevice(absl::Span<const internal::Register* const> ranks) {
  const internal::Register& first = *ranks.front();
  RegisteredDevice least = {.name = first.device(),
                            .cuda = first.cuda(),
                            .total_bytes = first.total_bytes(),
                            .sm_count = std::max(first.sm_count(), 1)};
  int64_t free_bytes = first.free_bytes();
  for (const internal::Register* rank : ranks) {
    least.sm_count = std::min(least.sm_count, std::max(rank->sm_count(), 1));
    least.total_bytes = std::min(least.total_bytes, rank->total_bytes());
    free_bytes = std::min(free_bytes, rank->free_bytes());
  }
  return {.facts = FactsOf(least), .free_bytes = free_bytes};
}

std::vector<int32_t> ChooseRanks(absl::Span<const int32_t> idle, int64_t count) {
  const auto n = static_cast<size_t>(count);
  for (size_t begin = 0; begin + n <= idle.size(); ++begin) {
    if (idle[begin + n - 1] - idle[begin] == static_cast<int32_t>(n) - 1) {
      return {idle.begin() + begin, idle.begin() + begin + n};
    }
  }
  return {idle.begin(), idle.begin() + n};
}

absl::StatusOr<PlacedModel> PlaceModel(const PlacementRequest& request,
                                       const PlanFunction& find_plan) {
  const auto idle = static_cast<int64_t>(request.idle.size());
  if (idle == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("0 of ", request.registered, " ranks are idle; a model needs at least 1"));
  }
  const PoolDevice device = CommonDevice(request.idle);
  PlacedModel out;
  ASSIGN_OR_RETURN(out.options,
                   ResolveOptions(request.options, *request.config, device.facts.spec.device));
  PlanInput input = MakePlanInput(out.options, *request.config, device.facts);
  const auto usable = static_cast<int64_t>(kUsableShare * static_cast<double>(device.free_bytes));
  input.memory_cap = input.memory_cap == 0 ? usable : std::min(input.memory_cap, device.free_bytes);
  // The search is over any number of ranks, so that the answer can say how many it takes.
  input.max_ranks = std::max<int64_t>(input.max_ranks, request.registered);
  ASSIGN_OR_RETURN(out.plan, find_plan(input));
  const int64_t needed = out.plan.shape.ranks();
  if (needed > idle) {
    const std::string message = absl::StrCat(
        "the plan needs ", needed, " ranks (tp ", out.plan.shape.tp, " x pp ", out.plan.shape.pp,
        "); ", idle, " of ", request.registered, " are idle. ", out.plan.explanation);
    return needed > request.registered ? absl::FailedPreconditionError(message)
                                       : absl::ResourceExhaustedError(message);
  }
  out.options.set_tp(static_cast<int32_t>(out.plan.shape.tp));
  out.options.set_pp(static_cast<int32_t>(out.plan.shape.pp));
  out.options.set_device_memory_bytes(input.memory_cap);
  std::vector<int32_t> ranks;
  for (const internal::Register* rank : request.idle) ranks.push_back(rank->rank());
  out.ranks = ChooseRanks(ranks, needed);
  return out;
}

}  // namespace tessera
