#include <cstdint>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/runtime/cpu_pool.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = 12345.f;
constexpr size_t kGuardCount = 32;

const void* OrNull(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

LinearArgs ArgsOf(const PackedInputs& in, std::vector<float>& y, std::vector<uint8_t>& workspace) {
  const LinearCase& c = in.linear.shape;
  const auto outputs = static_cast<size_t>(c.t * c.n);
  y.assign(outputs, kPoison);
  y.resize(outputs + kGuardCount, kGuard);
  workspace.resize(
      static_cast<size_t>(LinearWorkspaceBytes(Device::kCpu, 1, c.t, c.n, c.k, c.gated, c.normed)));
  LinearArgs args = ArgsOfShape(in.linear);
  args.x = in.linear.x.data();
  args.packed = in.weight();
  args.bias = OrNull(in.linear.bias);
  args.residual = OrNull(in.linear.residual);
  args.y = y.data();
  args.norm_weight = OrNull(in.linear.norm_weight);
  args.workspace = workspace.data();
  args.workspace_bytes = static_cast<int64_t>(workspace.size());
  return args;
}

std::vector<float> RunPacked(const PackedInputs& in, int threads) {
  CpuPool pool(threads);
  std::vector<float> y;
  std::vector<uint8_t> workspace;
  EXPECT_OK(LinearCpu(ArgsOf(in, y, workspace), {.device = Device::kCpu, .pool = &pool}));
  const size_t outputs = y.size() - kGuardCount;
  for (size_t i = 0; i < kGuardCount; ++i) EXPECT_EQ(y[outputs + i], kGuard);
  y.resize(outputs);
  return y;
}

void ExpectMatchesReference(const PackedCase& c) {
  SCOPED_TRACE(::testing::Message() << "t=" << c.linear.t << " n=" << c.linear.n << " k="
                                    << c.linear.k << " bits " << c.bits << " group " << c.group
                                    << (c.zeros ? " zeros" : "") << (c.ragged ? " ragged" : ""));
  const PackedInputs in = RandomPacked(c, 7);
  const LinearMismatch bad =
      CompareLinear(LinearReference(in.linear), RunPacked(in, 2), c.linear.n);
  EXPECT_EQ(bad.count, 0) << bad.worst;
}

TEST(PackedLinearCpu, MatchesTheReferenceForEveryFormat) {
  for (const int bits : {4, 8})
    for (const bool zeros : {false, true})
      for (const int64_t group : {32, 64, 128, 256, 416, 1 << 20})
        for (const int64_t k : {16, 64, 416, 896})
          if (group != 416 || k <= group)
            ExpectMatchesReference({.linear = {.t = 3, .n = 24, .k = k},
                                    .bits = bits,
                                    .group = group,
                                    .zeros = zeros});
}

TEST(PackedLinearCpu, MatchesTheReferenceForRaggedGroups) {
  for (const int bits : {4, 8})
    for (const bool zeros : {false, true})
      ExpectMatchesReference({.linear = {.t = 3, .n = 16, .k = 272},
                              .bits = bits,
                              .zeros = zeros,
                              .ragged = true,
                              .groups = 5});
}

TEST(PackedLinearCpu, MatchesTheReferenceForEveryRowCount) {
  for (const int64_t t : {1, 2, 5, 16, 33, 300})
    ExpectMatchesReference({.linear = {.t = t, .n = 40, .k = 160}, .zeros = true});
}

TEST(PackedLinearCpu, FusesNormGateBiasAndResidual) {
  ExpectMatchesReference({.linear = {.t = 5, .n = 32, .k = 256, .normed = true, .bias = true}});
  ExpectMatchesReference({.linear = {.t = 5, .n = 32, .k = 256, .residual = true}});
  ExpectMatchesReference({.linear = {.t = 5, .n = 36, .k = 256, .normed = true, .gated = true}});
}

TEST(PackedLinearCpu, RowDoesNotDependOnTheOtherRows) {
  const PackedInputs all = RandomPacked({.linear = {.t = 7, .n = 40, .k = 144}}, 13);
  const std::vector<float> together = RunPacked(all, 3);
  for (int64_t t = 0; t < 7; ++t) {
    PackedInputs one = all;
    one.linear.shape.t = 1;
    one.linear.x.assign(all.linear.x.begin() + t * 144, all.linear.x.begin() + (t + 1) * 144);
    EXPECT_EQ(RunPacked(one, 1),
              std::vector<float>(together.begin() + t * 40, together.begin() + (t + 1) * 40))
        << "row " << t;
  }
}

class PackedLinearErrors : public ::testing::Test {
 protected:
  void ExpectInvalid(const char* message) {
    EXPECT_THAT(LinearCpu(args_, {.device = Device::kCpu, .pool = &pool_}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }

  CpuPool pool_{1};
  const PackedInputs in_ = RandomPacked({.linear = {.t = 1, .n = 16, .k = 256}}, 1);
  std::vector<float> y_;
  std::vector<uint8_t> workspace_;
  LinearArgs args_ = ArgsOf(in_, y_, workspace_);
};

TEST_F(PackedLinearErrors, OtherSizesThanTheLayersAreInvalid) {
  args_.packed.n = 8;
  ExpectInvalid("packed.n=8, the product's is 16");
  args_.packed.n = 16;
  args_.packed.k = 128;
  ExpectInvalid("packed.k=128, the product's is 256");
}

TEST_F(PackedLinearErrors, SizesThatTheLayoutHasNotAreInvalid) {
  args_.packed.n = args_.n = 12;
  ExpectInvalid("packed.n=12 is not a multiple of 8");
  args_.packed.n = args_.n = 16;
  args_.packed.k = args_.k = 248;
  ExpectInvalid("packed.k=248 is not a multiple of 16");
}

TEST_F(PackedLinearErrors, OtherBitsAreInvalid) {
  args_.packed.bits = 3;
  ExpectInvalid("packed.bits=3");
}

TEST_F(PackedLinearErrors, GroupsThatDoNotCoverKAreInvalid) {
  args_.packed.groups = 1;
  ExpectInvalid("packed.groups=1 of 128 for k=256, needs 2");
}

TEST_F(PackedLinearErrors, RaggedWithoutGroupsIsInvalid) {
  constexpr uint16_t kGroupOfStep[16] = {};
  args_.packed.group_of_step = kGroupOfStep;
  args_.packed.groups = 0;
  ExpectInvalid("packed.groups=0, needs 1 or more");
}

TEST_F(PackedLinearErrors, OddGroupsAreInvalid) {
  args_.packed.group = 96;
  args_.packed.groups = 3;
  ExpectInvalid("packed.group=96");
}

TEST_F(PackedLinearErrors, MissingScalesAreInvalid) {
  args_.packed.scales = nullptr;
  ExpectInvalid("packed.scales");
}

}  // namespace
}  // namespace tessera
