#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/rope/rope_case.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;
using RopeKvWriteCpuTest = CpuOpTest;

// fp32 throughout: a few roundings of values up to 5.
constexpr double kRelative = 1e-6, kAbsolute = 2e-6;

void ExpectAgrees(const OpDevice& on, const RopeCase& c) {
  const RopeResult got = RunRope(on, c), want = ReferenceRope(c);
  ExpectNear(got.q, want.q, kRelative, kAbsolute);
  ExpectNear(got.k_cache, want.k_cache, kRelative, kAbsolute);
  ExpectNear(got.v_cache, want.v_cache, 0, 0);
}

TEST_F(RopeKvWriteCpuTest, RotatesAndWritesEveryHeadSize) {
  for (int64_t e : {32, 64, 128}) {
    SCOPED_TRACE(e);
    ExpectAgrees(cpu(), MakeRopeCase({.e = e}, {0, 1, 2, 77}, {5, 6, 63, 0}));
  }
}

TEST_F(RopeKvWriteCpuTest, QuarterTurnMovesTheFirstHalfIntoTheSecond) {
  RopeCase c = MakeRopeCase({.h = 1, .g = 1, .e = 32}, {1}, {0});
  for (float& f : c.inv_freq) f = 1.5707963f;  // pi / 2
  const RopeResult got = RunRope(cpu(), c);
  for (size_t j = 0; j < 16; ++j) {
    EXPECT_NEAR(got.q[j], -c.qkv[j + 16], 1e-6);
    EXPECT_NEAR(got.q[j + 16], c.qkv[j], 1e-6);
  }
}

TEST_F(RopeKvWriteCpuTest, LargePositionsKeepTheirAngle) {
  ExpectAgrees(cpu(), MakeRopeCase({.e = 128}, {32768, 131071, 1048575}, {1, 2, 3}));
}

TEST_F(RopeKvWriteCpuTest, NormComesBeforeTheRotation) {
  ExpectAgrees(cpu(), MakeRopeCase({.norm = true}, {3, 500}, {17, 18}));
}

TEST_F(RopeKvWriteCpuTest, ScaleMultipliesBothHalves) {
  ExpectAgrees(cpu(), MakeRopeCase({.rope_scale = 1.25f}, {3, 500}, {17, 18}));
}

TEST_F(RopeKvWriteCpuTest, IndicesOutsideTheCacheAreDropped) {
  ExpectAgrees(cpu(), MakeRopeCase({}, {0, 1, 2, 3}, {-1, 64, int64_t{1} << 40, 9}));
}

void ExpectRefused(const Stream& stream, absl::StatusCode code, const std::string& message,
                   const std::function<void(RopeKvWriteArgs&)>& change) {
  RopeKvWriteArgs a;
  a.h = 4;
  a.g = 2;
  a.e = 64;
  a.block_size = 16;
  EXPECT_OK(RopeKvWriteCpu(a, stream));
  change(a);
  EXPECT_THAT(RopeKvWriteCpu(a, stream), StatusIs(code, HasSubstr(message)));
}

TEST_F(RopeKvWriteCpuTest, NegativeSizeIsInvalid) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument, "t=-3",
                [](auto& a) { a.t = -3; });
}

TEST_F(RopeKvWriteCpuTest, OneNormWeightAloneIsInvalid) {
  static const float weight[64] = {};
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument, "only the k norm weight",
                [](auto& a) { a.rotation.k_norm = weight; });
}

TEST_F(RopeKvWriteCpuTest, OtherHeadSizesAreUnimplemented) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kUnimplemented, "heads of 96",
                [](auto& a) { a.e = 96; });
}

TEST_F(RopeKvWriteCpuTest, HalfPrecisionIsUnimplemented) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kUnimplemented, "f16 on the CPU",
                [](auto& a) { a.dtype = DType::kF16; });
}

}  // namespace
}  // namespace tessera::testing
