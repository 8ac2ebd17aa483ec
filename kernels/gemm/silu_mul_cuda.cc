#include <absl/strings/str_cat.h>

#include "kernels/gemm/silu_mul.h"

namespace tessera {

absl::Status SiluMulCuda(const SiluMulArgs& a, const Stream& stream) {
  if (a.t < 0 || a.n < 0)
    return absl::InvalidArgumentError(absl::StrCat("silu_mul: t=", a.t, " n=", a.n));
  if (a.t == 0 || a.n == 0) return absl::OkStatus();
  return LaunchSiluMul(a, stream.cuda);
}

}  // namespace tessera
