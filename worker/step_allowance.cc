#include "worker/step_allowance.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr absl::Duration kLeast = absl::Seconds(5);
constexpr double kMargin = 10;
// Slow devices of their kinds.
constexpr double kGpuBytesPerSecond = 5e11, kGpuFlopsPerSecond = 2e13;
constexpr double kCpuBytesPerSecond = 2e9, kCpuFlopsPerSecond = 2e9;

}  // namespace

StepWork WorkOf(const StepDraft& draft) {
  StepWork work;
  for (const PlannedSequence& s : draft.sequences) {
    const auto rows = static_cast<int64_t>(s.tokens.size());
    work.rows += rows;
    work.pairs += rows * (s.first_position + rows);
  }
  return work;
}

StepWork WorkOf(const PlanHeader& header) {
  return {.rows = header.tokens, .pairs = int64_t{header.tokens} * header.max_context};
}

StepAllowance::StepAllowance(const LayoutInput& layout, absl::Span<const BufferSpec> buffers)
    : stages_(static_cast<double>(layout.shard.shape.pp)) {
  const bool gpu = layout.device.device == Device::kCuda;
  bytes_per_s_ = gpu ? kGpuBytesPerSecond : kCpuBytesPerSecond;
  flops_per_s_ = gpu ? kGpuFlopsPerSecond : kCpuFlopsPerSecond;
  for (const BufferSpec& buffer : buffers) {
    const auto bytes = static_cast<double>(buffer.bytes);
    if (buffer.kind == BufferKind::kWeights) weight_bytes_ += bytes;
    if (buffer.kind == BufferKind::kKv) cache_bytes_ += bytes;
  }
  cache_bytes_a_token_ =
      static_cast<double>(KvBlockBytes(layout)) / static_cast<double>(layout.limits.block_size);
  const bool quantized = layout.config.quant.method != QuantMethod::kNone;
  flops_a_row_ = weight_bytes_ * (quantized ? 4 : 1);  // two a weight, of 4 or 16 bits
  flops_a_pair_ = 4. * static_cast<double>(layout.shard.layers.size() * layout.shard.heads.size() *
                                           layout.config.head_size);
}

absl::Duration StepAllowance::For(StepWork work) const {
  const double flops = flops_a_row_ * static_cast<double>(work.rows) +
                       flops_a_pair_ * static_cast<double>(work.pairs);
  const double cached = cache_bytes_a_token_ * static_cast<double>(work.pairs);
  const double bytes = weight_bytes_ + std::min(cached, cache_bytes_);
  const double seconds = stages_ * (bytes / bytes_per_s_ + flops / flops_per_s_);
  return std::max(kLeast, absl::Seconds(kMargin * seconds));
}

}  // namespace tessera
