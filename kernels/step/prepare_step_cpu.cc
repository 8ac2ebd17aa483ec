#include "common/status_macros.h"
#include "kernels/step/prepare_step.h"
#include "kernels/step/prepare_step_math.h"

namespace tessera {

absl::Status PrepareStepCpu(const PrepareStepArgs& args, const Stream&) {
  RETURN_IF_ERROR(CheckPrepareStep(args));
  for (int64_t i = 0; i < args.patches; ++i) ApplyPatch(args, i);
  for (int64_t i = 0; i < args.t; ++i) {
    args.token_ids[i] = TokenId(args, i);
    args.kv_index[i] = KvIndex(args, i);
  }
  return absl::OkStatus();
}

}  // namespace tessera
