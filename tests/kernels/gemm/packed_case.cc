#include "tests/kernels/gemm/packed_case.h"

#include <cmath>

#include "common/align.h"
#include "common/float16.h"
#include "kernels/gemm/packed_batch.h"
#include "kernels/gemm/packed_gemv_config.h"
#include "tests/support/op_fixture.h"

namespace tessera {

PackedWeight PackedInputs::weight() const {
  const LinearCase& c = linear.shape;
  return {.bits = shape.bits,
          .n = (c.gated ? 2 : 1) * c.n,
          .k = c.k,
          .groups = shape.ragged ? shape.groups : CeilDiv(c.k, shape.group),
          .group = shape.group,
          .values = values.data(),
          .scales = scales.data(),
          .zeros = zeros.empty() ? nullptr : zeros.data(),
          .group_of_step = group_of_step.empty() ? nullptr : group_of_step.data()};
}

PackedInputs RandomPacked(const PackedCase& shape, uint32_t seed) {
  const LinearCase& c = shape.linear;
  testing::SeededRandom random(seed + 1000);
  PackedInputs in;
  in.shape = shape;
  LinearCase small = c;
  small.weight_dtype = DType::kF32;
  in.linear = RandomLinear(small, seed);

  PackedWeight w = in.weight();
  const int levels = 1 << shape.bits;
  const auto zero_stride = PackedZeroStride(w.bits, w.n);
  in.values.resize(static_cast<size_t>(w.n * PackedRowBytes(w.bits, w.k)));
  if (shape.zeros) in.zeros.resize(static_cast<size_t>(w.groups * zero_stride));
  // So that w has the magnitude of RandomLinear()'s.
  const float largest = 4.f / std::sqrt(static_cast<float>(w.k)) / static_cast<float>(levels / 2);
  std::vector<int> zero(static_cast<size_t>(w.groups * w.n), levels / 2);
  for (int64_t g = 0; g < w.groups; ++g)
    for (int64_t i = 0; i < w.n; ++i) {
      in.scales.push_back(FloatToF16(largest * static_cast<float>(0.5 + 0.5 * random.Unit())));
      if (!shape.zeros) continue;
      const auto z = static_cast<int>(random.Below(levels));
      zero[static_cast<size_t>(g * w.n + i)] = z;
      const int64_t byte = g * zero_stride + (w.bits == 8 ? i : i / 2);
      in.zeros[static_cast<size_t>(byte)] |=
          static_cast<uint8_t>(z << (w.bits == 8 ? 0 : i % 2 * 4));
    }
  for (int64_t s = 0; shape.ragged && s < w.k / kPackedStep; ++s)
    in.group_of_step.push_back(static_cast<uint16_t>(random.Below(w.groups)));

  const PackedGemvProblem problem = {.t = c.t,
                                     .n = c.n,
                                     .k = c.k,
                                     .bits = shape.bits,
                                     .group = shape.group,
                                     .ragged = shape.ragged};
  in.linear.fine_norm =
      c.dtype != DType::kF32 && PackedGemvServes(problem) && !PackedBatchServes(problem);
  in.linear.w.resize(static_cast<size_t>(w.n * w.k));
  for (int64_t i = 0; i < w.n; ++i)
    for (int64_t j = 0; j < w.k; ++j) {
      const auto q = static_cast<int>(random.Below(levels));
      const PackedPlace place = PackedPlaceOf(w.bits, j);
      in.values[static_cast<size_t>(PackedRowAt(w.bits, w.k, i) + place.byte)] |=
          static_cast<uint8_t>(q << place.shift);
      const int64_t group =
          shape.ragged ? in.group_of_step[static_cast<size_t>(j / kPackedStep)] : j / w.group;
      const auto at = static_cast<size_t>(group * w.n + i);
      const float scale = F16ToFloat(in.scales[at]);
      in.linear.w[static_cast<size_t>(i * w.k + j)] = scale * static_cast<float>(q - zero[at]);
    }
  return in;
}

}  // namespace tessera
