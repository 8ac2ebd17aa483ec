#include "parallel/residual_norm.h"

namespace tessera {

absl::Status AddResidualAndNorm(const AllReduceNormArgs& a, const Ops& ops, const Stream& stream) {
  if (a.weight == nullptr) {
    return ops.residual_add(
        {.add = a.partial, .residual = a.residual, .count = a.t * a.d, .dtype = a.dtype}, stream);
  }
  RmsNormArgs norm;
  norm.weight = a.weight;
  norm.y = a.y;
  norm.copies = a.copies;
  norm.add = a.partial;
  norm.residual = a.residual;
  norm.t = a.t;
  norm.d = a.d;
  norm.eps = a.eps;
  norm.dtype = a.dtype;
  return ops.rms_norm(norm, stream);
}

}  // namespace tessera
