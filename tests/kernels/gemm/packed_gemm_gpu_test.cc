#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/linear_config.h"
#include "kernels/gemm/packed_gemm.h"
#include "kernels/runtime/current_gpu.h"
#include "tests/kernels/gemm/linear_on_device.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::DeviceBytes;
using testing::OpDevice;
using testing::RoundedTo;
using testing::SeededRandom;
using testing::StatusIs;

constexpr int64_t kWhole = 1 << 20;
constexpr int64_t kMaxT = 1000, kMaxN = 1048, kMaxK = 3584;  // of the cases here

// One workspace for all cases: poisoned at first, then full of what earlier cases left.
class OnDevice : public PackedOnDevice {
 public:
  OnDevice(OpDevice& device, const PackedInputs& in)
      : PackedOnDevice(device, in, &SharedWorkspace(device)) {}

 private:
  static const DeviceBytes& SharedWorkspace(OpDevice& device) {
    static const auto* workspace = new DeviceBytes(device.Workspace(
        LinearWorkspaceBytes(Device::kCuda, kSmCount, kMaxT, kMaxN, kMaxK, true, false)));
    return *workspace;
  }
};

// What rounds ahead of the outputs.
enum class Rounds {
  kNothing,             // sums of q - zero are scaled
  kWeights,             // to the dtype
  kWeightsAndProducts,  // and products, to the dtype, before they are gated
};

// y of one (token, output), in double, and what the kernel may be off by.
//
// Weights are (q - zero) * scale, or that rounded to the dtype. bf16 reaches that through two
// steps, which miss the nearest value once in about 2^8 weights, by 2^-8 of it: a random walk of
// 2^-12 times the norm of the terms, here allowed eight times that. Sums in fp32 err by 2^-24 a
// step of the sum of magnitudes at most, in practice over a few hundred steps. The output rounds
// once.
class Reference {
 public:
  Reference(const PackedInputs& in, Rounds rounds)
      : in_(in),
        w_(rounds == Rounds::kNothing ? in.linear.w
                                      : RoundedTo(in.linear.shape.dtype, in.linear.w)),
        rounds_(rounds) {}

  void Expect(const std::vector<float>& y, int64_t token, int64_t output, int& bad) const {
    const LinearCase& c = in_.linear.shape;
    const Sum sum = c.gated ? Gate(Dot(token, output), Dot(token, c.n + output))
                            : Plain(Dot(token, output), token, output);
    const double half_ulp = c.y_dtype == DType::kBf16  ? 0x1p-8
                            : c.y_dtype == DType::kF16 ? 0x1p-11
                                                       : 0x1p-24;
    const double tolerance = sum.error + half_ulp * (std::abs(sum.value) + sum.error) + 1e-7;
    const double have = y[static_cast<size_t>(token * c.n + output)];
    if (std::abs(have - sum.value) <= tolerance) return;
    if (++bad <= 3)
      ADD_FAILURE() << "token " << token << " output " << output << ": " << have << ", expected "
                    << sum.value << " +- " << tolerance;
  }

 private:
  struct Sum {
    double value = 0, error = 0;
  };

  Sum Dot(int64_t token, int64_t row) const {
    const LinearCase& c = in_.linear.shape;
    double value = 0, magnitude = 0, square = 0;
    for (int64_t j = 0; j < c.k; ++j) {
      const double term = static_cast<double>(in_.linear.x[static_cast<size_t>(token * c.k + j)]) *
                          w_[static_cast<size_t>(row * c.k + j)];
      value += term;
      magnitude += std::abs(term);
      square += term * term;
    }
    const bool twice = rounds_ != Rounds::kNothing && c.dtype == DType::kBf16;
    const double weights = twice ? 0x1p-9 * std::sqrt(square) : 0;
    double error = weights + 256 * 0x1p-24 * magnitude;
    if (rounds_ == Rounds::kWeightsAndProducts && c.gated)
      error += (c.dtype == DType::kBf16 ? 0x1p-8 : 0x1p-11) * (std::abs(value) + error);
    return {.value = value, .error = error};
  }

  Sum Plain(Sum sum, int64_t token, int64_t output) const {
    const LinearCase& c = in_.linear.shape;
    if (c.bias) sum.value += in_.linear.bias[static_cast<size_t>(output)];
    if (c.residual) sum.value += in_.linear.residual[static_cast<size_t>(token * c.n + output)];
    return sum;
  }

  static Sum Gate(const Sum& gate, const Sum& up) {
    const double silu = gate.value / (1 + std::exp(-gate.value));
    constexpr double kMaxSlope = 1.1;  // of silu
    return {.value = silu * up.value,
            .error = kMaxSlope * gate.error * (std::abs(up.value) + up.error) +
                     std::abs(silu) * up.error + 0x1p-20 * std::abs(silu * up.value)};
  }

  const PackedInputs& in_;
  const std::vector<float> w_;
  const Rounds rounds_;
};

// All outputs of small cases; of others the last token and output and 1500 at random.
void ExpectOutputs(const PackedInputs& in, const std::vector<float>& y, Rounds rounds) {
  const LinearCase& c = in.linear.shape;
  const Reference reference(in, rounds);
  int bad = 0;
  constexpr int64_t kAllTerms = 12'000'000;
  const auto nan = std::count_if(y.begin(), y.end(), [](float v) { return std::isnan(v); });
  EXPECT_EQ(nan, 0) << "of " << y.size() << " outputs";
  if (c.t * c.n * c.k <= kAllTerms) {
    for (int64_t token = 0; token < c.t; ++token)
      for (int64_t output = 0; output < c.n; ++output) reference.Expect(y, token, output, bad);
  } else {
    SeededRandom random(3);
    reference.Expect(y, c.t - 1, c.n - 1, bad);
    for (int i = 0; i < 1500; ++i) reference.Expect(y, random.Below(c.t), random.Below(c.n), bad);
  }
  EXPECT_EQ(bad, 0);
}

class PackedGemmGpu : public testing::GpuOpTest {
 protected:
  static PackedCase Case(LinearCase linear, int bits, int64_t group, bool zeros = false,
                         DType dtype = DType::kBf16) {
    linear.y_dtype =
        linear.y_dtype == DType::kF32 && linear.dtype != DType::kF32 ? DType::kF32 : dtype;
    linear.dtype = linear.weight_dtype = dtype;
    return {.linear = linear, .bits = bits, .group = group, .zeros = zeros};
  }
  static ::testing::Message Named(const PackedCase& c) {
    const LinearCase& l = c.linear;
    return ::testing::Message() << "bits=" << c.bits << " t=" << l.t << " n=" << l.n << " k=" << l.k
                                << " group=" << c.group << (c.zeros ? " zeros" : "")
                                << (c.ragged ? " ragged" : "") << (l.gated ? " gated" : "")
                                << (l.bias ? " bias" : "") << (l.residual ? " residual" : "") << " "
                                << Name(l.dtype) << " to " << Name(l.y_dtype);
  }
  void ExpectMatches(const PackedCase& c) {
    SCOPED_TRACE(Named(c));
    const PackedInputs in = RandomPacked(c, 11);
    OnDevice on(gpu(), in);
    ASSERT_OK(LaunchPackedGemm(on.args(), on.workspace(), on.stream().cuda));
    const PackedGemmPlan plan = PlanPackedGemm(CurrentGpu().sm_count,
                                               {.bits = c.bits,
                                                .t = c.linear.t,
                                                .rows = on.args().packed.n,
                                                .k = c.linear.k,
                                                .gated = c.linear.gated},
                                               on.workspace().library_bytes);
    ExpectOutputs(in, on.Read(), RoundsWith(plan.tile, c));
  }
  static Rounds RoundsWith(PackedTile tile, const PackedCase& c) {
    const bool scales_sums = CurrentGpu().is_sm90() && tile.tokens <= kPackedScaledTokens &&
                             (c.group >= kPackedStageK || c.group >= c.linear.k) && !c.ragged;
    return scales_sums ? Rounds::kNothing : Rounds::kWeights;
  }
};

TEST_F(PackedGemmGpu, MatchesTheReferenceForEveryRowCount) {
  for (const int64_t t : {1, 9, 16, 17, 31, 33, 64, 65, 128, 257, 1000})
    for (const int bits : {4, 8})
      for (const DType dtype : {DType::kBf16, DType::kF16})
        for (const int64_t group : {t % 2 == 0 ? 32 : 64, 128})
          if (group < 128 || t < kPackedPartsMinRows)
            ExpectMatches(Case({t, 264, 416}, bits, group, t % 3 == 0, dtype));
}

// Whole tiles, several to a block; and shared ones cut into one run more than there are tiles, or
// into fewer runs, so that runs cross from tile to tile.
PackedGemmPlan WholeTiles(PackedGemmPlan plan) {
  plan.shared_tiles = plan.shared_blocks = 0;
  plan.blocks = 3;
  return plan;
}
PackedGemmPlan CrossingRuns(PackedGemmPlan plan) {
  plan.shared_tiles = std::min<int64_t>(plan.tiles(), 20);
  plan.blocks = plan.shared_blocks = static_cast<int>(plan.shared_tiles) + 1;
  return plan;
}
PackedGemmPlan LongRuns(PackedGemmPlan plan) {
  plan.shared_tiles = plan.tiles();
  plan.blocks = plan.shared_blocks = static_cast<int>(plan.tiles() * 2 / 3);
  return plan;
}

struct Feature {
  const char* name;
  PackedCase shape;
  bool in_place = false;
};

// Of 300 tokens by 400 outputs.
std::vector<Feature> FeaturesOf(int bits) {
  constexpr DType kBf16 = DType::kBf16, kF16 = DType::kF16;
  const LinearCase plain = {
      .t = 300, .n = 400, .k = 896, .dtype = kBf16, .weight_dtype = kBf16, .y_dtype = kBf16};
  LinearCase half = plain, gated = plain, fused = plain;
  half.dtype = half.weight_dtype = half.y_dtype = kF16;
  gated.gated = true;
  fused.bias = fused.residual = true;
  LinearCase gated_half = half, fused_half = half, wide = fused;
  gated_half.gated = true;
  fused_half.bias = fused_half.residual = true;
  wide.y_dtype = DType::kF32;
  return {
      {"zeros", {.linear = plain, .bits = bits, .zeros = true}},
      {"no zeros, fused, f16", {.linear = fused_half, .bits = bits}},
      {"gated", {.linear = gated, .bits = bits}},
      {"gated, zeros, f16", {.linear = gated_half, .bits = bits, .zeros = true}},
      {"fused, f32", {.linear = wide, .bits = bits}},
      {"fused, groups of 32", {.linear = fused, .bits = bits, .group = 32, .zeros = true}},
      {"ragged", {.linear = plain, .bits = bits, .zeros = true, .ragged = true, .groups = 9}},
      {"fused, in place", {.linear = fused, .bits = bits}, true},
  };
}

TEST_F(PackedGemmGpu, EveryTileMatchesHoweverCut) {
  for (const int bits : {4, 8})
    for (const Feature& feature : FeaturesOf(bits)) {
      const PackedCase& c = feature.shape;
      const PackedInputs in = RandomPacked(c, 5);
      for (const PackedTile tile : kPackedTiles)
        for (const auto& cut : {WholeTiles, CrossingRuns, LongRuns}) {
          OnDevice on(gpu(), in);
          const PackedGemmPlan plan = cut(PlanPackedTile(
              CurrentGpu().sm_count,
              {.bits = bits, .t = c.linear.t, .rows = on.args().packed.n, .k = c.linear.k}, tile,
              on.workspace().library_bytes));
          SCOPED_TRACE(::testing::Message()
                       << feature.name << ", " << bits << " bits, " << tile.rows << " x "
                       << tile.tokens << ", " << plan.shared_blocks << " runs of "
                       << plan.shared_tiles << " shared tiles");
          const testing::FloatArray residual = gpu().Upload(c.linear.dtype, in.linear.residual);
          if (feature.in_place) on.args().residual = on.args().y = residual.data();
          const absl::Status status =
              LaunchPackedGemmByPlan(on.args(), plan, on.workspace(), on.stream().cuda);
          if (status.code() == absl::StatusCode::kUnimplemented) GTEST_SKIP() << status.message();
          ASSERT_OK(status);
          ExpectOutputs(in, feature.in_place ? residual.Read() : on.Read(), RoundsWith(tile, c));
        }
    }
}

TEST_F(PackedGemmGpu, GroupsOfEverySizeMatch) {
  for (const int64_t k : {416, 896, 3584})
    for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, int64_t{384}, kWhole})
      for (const int bits : {4, 8})
        for (const bool zeros : {false, true})
          ExpectMatches(
              Case({33, 200, k}, bits, group, zeros, group == 64 ? DType::kF16 : DType::kBf16));
}

TEST_F(PackedGemmGpu, RaggedGroupsMatch) {
  for (const int64_t t : {40, 200})
    for (const int bits : {4, 8}) {
      PackedCase c = Case({t, 200, 1264}, bits, 128, true);
      c.ragged = true;
      c.groups = 13;
      ExpectMatches(c);
    }
}

TEST_F(PackedGemmGpu, FusesGateBiasAndResidual) {
  for (const int64_t t : {18, 63, 300})
    for (const int bits : {4, 8})
      for (const DType dtype : {DType::kBf16, DType::kF16})
        for (const int64_t group : {32, 128}) {
          const LinearCase plain = {.t = t, .n = 136, .k = 416};
          LinearCase gated = plain, biased = plain, both = plain;
          gated.gated = biased.bias = both.bias = both.residual = true;
          ExpectMatches(Case(gated, bits, group, true, dtype));
          ExpectMatches(Case(biased, bits, group, true, dtype));
          ExpectMatches(Case(both, bits, group, false, dtype));
        }
}

TEST_F(PackedGemmGpu, WritesF32Outputs) {
  for (const int64_t t : {20, 300}) {
    const LinearCase wide = {.t = t, .n = 264, .k = 416, .dtype = DType::kBf16};
    LinearCase fused = wide, gated = wide;
    fused.bias = fused.residual = true;
    gated.gated = true;
    for (const LinearCase& c : {wide, fused, gated}) ExpectMatches(Case(c, 4, 128, true));
  }
}

TEST_F(PackedGemmGpu, OutputsThatEndInsideTilesMatch) {
  for (const int64_t n : {8, 120, 136, 184, 200, 1048})
    for (const int64_t t : {17, 70}) ExpectMatches(Case({t, n, 256}, 4, 128));
}

TEST_F(PackedGemmGpu, RepeatsBitForBit) {
  for (const int64_t t : {64, 257}) {
    const PackedInputs in = RandomPacked(Case({t, 1040, 3584}, 4, 128, true), 2);
    std::vector<std::vector<float>> results;
    for (int run = 0; run < 3; ++run) {
      OnDevice on(gpu(), in);
      for (int again = 0; again < 20; ++again)
        ASSERT_OK(LaunchPackedGemm(on.args(), on.workspace(), on.stream().cuda));
      results.push_back(on.Read());
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
  }
}

TEST_F(PackedGemmGpu, PartsMatchTheReference) {
  for (const int bits : {4, 8})
    for (const DType dtype : {DType::kBf16, DType::kF16})
      for (const bool gated : {false, true})
        for (const int64_t library_bytes : {int64_t{1} << 17, int64_t{1} << 22})  // several, one
          for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, kWhole}) {
            const int64_t k = group == 32 ? 416 : 2064;
            const PackedCase c = Case(
                {.t = 40, .n = 200, .k = k, .gated = gated, .bias = !gated, .residual = !gated},
                bits, group, true, dtype);
            SCOPED_TRACE(Named(c));
            const PackedInputs in = RandomPacked(c, 5);
            OnDevice on(gpu(), in);
            LinearWorkspace workspace = on.workspace();
            workspace.library_bytes = library_bytes;
            ASSERT_OK(LaunchPackedGemmByParts(on.args(), workspace, on.stream().cuda));
            ExpectOutputs(in, on.Read(), Rounds::kWeightsAndProducts);
          }
}

TEST_F(PackedGemmGpu, PartsOfRaggedGroupsMatch) {
  for (const int bits : {4, 8}) {
    PackedCase c = Case({40, 200, 1264}, bits, 128, true);
    c.ragged = true;
    c.groups = 13;
    const PackedInputs in = RandomPacked(c, 7);
    OnDevice on(gpu(), in);
    ASSERT_OK(LaunchPackedGemmByParts(on.args(), on.workspace(), on.stream().cuda));
    ExpectOutputs(in, on.Read(), Rounds::kWeights);
  }
}

TEST_F(PackedGemmGpu, ManyRowsGoByParts) {
  const PackedInputs in = RandomPacked(Case({.t = 1000, .n = 1040, .k = 3584}, 8, 128), 9);
  OnDevice on(gpu(), in);
  ASSERT_OK(LaunchPackedGemm(on.args(), on.workspace(), on.stream().cuda));
  const std::vector<float> chosen = on.Read();
  ASSERT_OK(LaunchPackedGemmByParts(on.args(), on.workspace(), on.stream().cuda));
  EXPECT_EQ(chosen, on.Read());
}

TEST_F(PackedGemmGpu, OtherShapesAreInvalid) {
  const PackedInputs in = RandomPacked(Case({20, 64, 128}, 4, 128), 1);
  OnDevice on(gpu(), in);
  const auto code_with = [&](auto change) {
    LinearArgs args = on.args();
    change(args);
    return LaunchPackedGemm(args, on.workspace(), on.stream().cuda).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code_with([](LinearArgs& a) { a.packed.bits = 3; }), kInvalid);
  EXPECT_EQ(code_with([](LinearArgs& a) { a.packed.group = 48; }), kInvalid);
  EXPECT_EQ(code_with([](LinearArgs& a) { a.packed.k = 64; }), kInvalid);
  EXPECT_EQ(code_with([](LinearArgs& a) { a.n = 56; }), kInvalid);
  EXPECT_EQ(code_with([](LinearArgs& a) {
              a.gated = true;
              a.n = 32;
              a.residual = a.x;
            }),
            kInvalid);
  LinearWorkspace none = on.workspace();
  none.library_bytes = 1024;
  EXPECT_THAT(LaunchPackedGemmByParts(on.args(), none, on.stream().cuda), StatusIs(kInvalid, _));
  EXPECT_EQ(code_with([](LinearArgs& a) { a.dtype = DType::kF32; }),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace tessera
