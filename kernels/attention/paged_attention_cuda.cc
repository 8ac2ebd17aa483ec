#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_check.h"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/attention/prefill_attention.h"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
absl::Status PagedAttentionCuda(const PagedAttentionArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckPagedAttention(a, Device::kCuda));
  if (a.t == 0 || a.h == 0) return absl::OkStatus();
  const AttentionGpu gpu = {.sm_count = CurrentGpu().sm_count};
  if (gpu.sm_count == 0) return absl::InternalError("paged_attention: no CUDA device");
  const int64_t needed = PagedAttentionWorkspaceBytes(Device::kCuda, gpu.sm_count, a.t,
                                                      a.decode_sequences, a.h, a.g, a.e);
  if (a.decode_sequences > 0 && a.workspace_bytes < needed)
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: workspace of ", a.workspace_bytes, " bytes, needs ", needed,
                     " for ", a.decode_sequences, " decode sequences"));
  if (a.decode_sequences > 0) RETURN_IF_ERROR(LaunchDecodeAttention(a, gpu, stream));
  if (a.decode_sequences < a.s || a.decode_sequences == 0)
    RETURN_IF_ERROR(LaunchPrefillAttention(a, stream));
  return absl::OkStatus();
}

}  // namespace tessera
