#include "tests/kernels/rope/rope_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kTheta = 1e6;

}  // namespace

std::vector<double> NormAndRotate(const HeadTurn& turn, const float* x,
                                  const std::vector<float>& norm, int32_t position) {
  const size_t half = turn.inv_freq.size(), e = 2 * half;
  std::vector<double> y(x, x + e), out(e);
  if (!norm.empty()) {
    double sum = 0;
    for (double value : y) sum += value * value;
    for (size_t j = 0; j < e; ++j)
      y[j] *= norm[j] / std::sqrt(sum / static_cast<double>(e) + double{kNormEps});
  }
  for (size_t j = 0; j < half; ++j) {
    const float angle = static_cast<float>(position) * turn.inv_freq[j];
    const double cos = std::cos(double{angle}) * double{turn.scale};
    const double sin = std::sin(double{angle}) * double{turn.scale};
    out[j] = y[j] * cos - y[j + half] * sin;
    out[j + half] = y[j + half] * cos + y[j] * sin;
  }
  return out;
}

RopeCase MakeRopeCase(const RopeShape& shape, const std::vector<int32_t>& positions,
                      const std::vector<int64_t>& kv_index, uint64_t seed) {
  SeededRandom random(seed);
  RopeCase c{shape, positions, kv_index, {}, {}, {}, {}};
  const auto t = static_cast<int64_t>(positions.size());
  c.qkv = RoundedTo(shape.dtype, random.Normal(t * (shape.h + 2 * shape.g) * shape.e, 1.f));
  for (int64_t j = 0; j < shape.e / 2; ++j)
    c.inv_freq.push_back(static_cast<float>(
        std::pow(kTheta, -2.0 * static_cast<double>(j) / static_cast<double>(shape.e))));
  if (shape.norm) {
    c.q_norm = RoundedTo(shape.dtype, random.Uniform(shape.e, 0.5f, 1.5f));
    c.k_norm = RoundedTo(shape.dtype, random.Uniform(shape.e, 0.5f, 1.5f));
  }
  return c;
}

RopeResult ReferenceRope(const RopeCase& c) {
  const RopeShape& s = c.shape;
  const auto e = static_cast<size_t>(s.e), h = static_cast<size_t>(s.h),
             g = static_cast<size_t>(s.g);
  const auto cache = static_cast<size_t>(s.blocks * s.g * s.block_size * s.e);
  RopeResult result{{}, std::vector<float>(cache, kNan), std::vector<float>(cache, kNan)};
  const HeadTurn turn{c.inv_freq, s.rope_scale};
  for (size_t i = 0; i < c.positions.size(); ++i) {
    const float* row = &c.qkv[i * (h + 2 * g) * e];
    for (size_t head = 0; head < h; ++head)
      for (double value : NormAndRotate(turn, row + head * e, c.q_norm, c.positions[i]))
        result.q.push_back(static_cast<float>(value));
    const int64_t index = c.kv_index[i];
    if (index < 0 || index >= s.blocks * s.block_size) continue;
    for (size_t head = 0; head < g; ++head) {
      const int64_t block = index / s.block_size, offset = index % s.block_size;
      const auto at = static_cast<size_t>(
          ((block * s.g + static_cast<int64_t>(head)) * s.block_size + offset) * s.e);
      const std::vector<double> k =
          NormAndRotate(turn, row + (h + head) * e, c.k_norm, c.positions[i]);
      const float* v = row + (h + g + head) * e;
      for (size_t j = 0; j < e; ++j) {
        result.k_cache[at + j] = static_cast<float>(k[j]);
        result.v_cache[at + j] = v[j];
      }
    }
  }
  return result;
}

RopeResult RunRope(const OpDevice& on, const RopeCase& c) {
  const RopeShape& s = c.shape;
  const auto t = static_cast<int64_t>(c.positions.size());
  const int64_t cache = s.blocks * s.g * s.block_size * s.e;
  const FloatArray qkv = on.Upload(s.dtype, c.qkv);
  const auto positions = on.Upload(c.positions);
  const auto kv_index = on.Upload(c.kv_index);
  const auto inv_freq = on.Upload(c.inv_freq);
  const FloatArray q_norm = on.Upload(s.dtype, c.q_norm), k_norm = on.Upload(s.dtype, c.k_norm);
  const FloatArray q = on.Output(s.dtype, t * s.h * s.e);
  const FloatArray k_cache = on.Output(s.dtype, cache), v_cache = on.Output(s.dtype, cache);
  RopeKvWriteArgs a;
  a.qkv = qkv.data();
  a.positions = positions.data();
  a.kv_index = kv_index.data();
  a.rotation = {.inv_freq = inv_freq.data(),
                .scale = s.rope_scale,
                .q_norm = s.norm ? q_norm.data() : nullptr,
                .k_norm = s.norm ? k_norm.data() : nullptr,
                .norm_eps = kNormEps};
  a.q_out = q.data();
  a.k_cache = k_cache.data();
  a.v_cache = v_cache.data();
  a.t = t;
  a.h = s.h;
  a.g = s.g;
  a.e = s.e;
  a.block_size = s.block_size;
  a.cache_tokens = s.blocks * s.block_size;
  a.dtype = s.dtype;
#ifdef TESSERA_WITH_CUDA
  EXPECT_OK((on.device() == Device::kCpu ? RopeKvWriteCpu : RopeKvWriteCuda)(a, on.stream()));
#else
  EXPECT_OK(RopeKvWriteCpu(a, on.stream()));
#endif
  return {q.Read(), k_cache.Read(), v_cache.Read()};
}

void ExpectNear(const std::vector<float>& out, const std::vector<float>& want, double relative,
                double absolute) {
  ASSERT_EQ(out.size(), want.size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(out[i])) continue;
    const double allowed = relative * std::abs(double{want[i]}) + absolute;
    ASSERT_LE(std::abs(double{out[i]} - double{want[i]}), allowed)
        << "element " << i << ": " << out[i] << ", reference " << want[i];
  }
}

}  // namespace tessera::testing
