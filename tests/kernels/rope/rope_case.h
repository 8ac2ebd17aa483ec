// Random rope_kv_write calls, and what they should give, for the tests of both back ends.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"
#include "kernels/rope/rope_kv_write.h"
#include "tests/support/op_fixture.h"

namespace tessera::testing {

constexpr float kNormEps = 1e-6f;

struct HeadTurn {
  std::vector<float> inv_freq;  // e / 2
  float scale = 1.f;
};
// What rope_kv_write does to one head, in double precision but for the angle, which is the fp32
// product that the op defines. No norm when its weights are empty.
std::vector<double> NormAndRotate(const HeadTurn& turn, const float* x,
                                  const std::vector<float>& norm, int32_t position);

struct RopeShape {
  int64_t h = 4, g = 2, e = 64;
  int64_t block_size = 16, blocks = 4;
  DType dtype = DType::kF32;
  bool norm = false;
  float rope_scale = 1.f;
};

struct RopeCase {
  RopeShape shape;
  std::vector<int32_t> positions;
  std::vector<int64_t> kv_index;
  std::vector<float> qkv, inv_freq, q_norm, k_norm;
};

RopeCase MakeRopeCase(const RopeShape& shape, const std::vector<int32_t>& positions,
                      const std::vector<int64_t>& kv_index, uint64_t seed = 1);

struct RopeResult {
  std::vector<float> q, k_cache, v_cache;
};

// In double precision from the rounded inputs, but for the angle, which is the fp32 product that
// the op defines. Cache elements that nothing writes are NaN.
RopeResult ReferenceRope(const RopeCase& c);

// Runs the op of `on`'s device into NaN-filled, guarded outputs.
RopeResult RunRope(const OpDevice& on, const RopeCase& c);

// Expects |out - want| <= relative * |want| + absolute everywhere, and NaN exactly where `want` has
// it.
void ExpectNear(const std::vector<float>& out, const std::vector<float>& want, double relative,
                double absolute);

}  // namespace tessera::testing
