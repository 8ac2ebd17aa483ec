#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_check.h"
#include "kernels/sampling/sample_kernels.h"
#include "kernels/sampling/sample_workspace.h"

namespace tessera {
namespace {

SampleKernelArgs Divide(const SampleArgs& args) {
  const auto layout = SampleWorkspace::Layout(args.logits.rows, args.logits.vocab);
  char* base = static_cast<char*>(args.workspace);
  SampleKernelArgs k;
  k.sample = args;
  k.chunks = SampleChunks(args.logits.vocab);
  k.best = reinterpret_cast<uint64_t*>(base + layout.best);
  k.top = reinterpret_cast<uint64_t*>(base + layout.top);
  k.raw_best = reinterpret_cast<float*>(base + layout.raw_best);
  k.raw_sum = reinterpret_cast<float*>(base + layout.raw_sum);
  k.bin_mass = reinterpret_cast<unsigned long long*>(base + layout.bin_mass);
  k.bin_count = reinterpret_cast<uint32_t*>(base + layout.bin_count);
  k.min_p_mass = reinterpret_cast<unsigned long long*>(base + layout.min_p_mass);
  return k;
}

}  // namespace

absl::Status SampleCuda(const SampleArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckLogits(args.logits, "sample"));
  if (args.logits.rows == 0) return absl::OkStatus();
  const int64_t needed = SampleWorkspace::Layout(args.logits.rows, args.logits.vocab).bytes;
  if (args.workspace == nullptr || args.workspace_bytes < needed)
    return absl::InvalidArgumentError(absl::StrCat("sample: workspace of ", args.workspace_bytes,
                                                   " bytes, ", needed, " needed for ",
                                                   args.logits.rows, " rows"));
  const SampleKernelArgs kernel_args = Divide(args);
  RETURN_IF_ERROR(LaunchChunkScan(kernel_args, stream.cuda));
  if (!args.all_greedy) RETURN_IF_ERROR(LaunchWeightBins(kernel_args, stream.cuda));
  return LaunchChooseIds(kernel_args, stream.cuda);
}

}  // namespace tessera
