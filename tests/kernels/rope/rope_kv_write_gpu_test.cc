#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/rope/rope_case.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class RopeKvWriteCudaTest : public GpuOpTest {
 protected:
  // fp32 inside, one rounding at the end: half a unit in the last place, and twice that for the
  // fp32 roundings that tip it.
  static void ExpectAgrees(const RopeCase& c) {
    const double relative = c.shape.dtype == DType::kBf16 ? 0x1p-8 : 0x1p-11;
    const RopeResult got = RunRope(gpu(), c), want = ReferenceRope(c);
    ExpectNear(got.q, want.q, relative, 4e-6);
    ExpectNear(got.k_cache, want.k_cache, relative, 4e-6);
    ExpectNear(got.v_cache, want.v_cache, 0, 0);
  }
};

TEST_F(RopeKvWriteCudaTest, RotatesAndWritesEveryHeadSize) {
  for (DType dtype : {DType::kBf16, DType::kF16})
    for (int64_t e : {32, 64, 128})
      for (int64_t h : {2, 14, 28, 64}) {
        SCOPED_TRACE(absl::StrCat(Name(dtype), " e ", e, " h ", h));
        ExpectAgrees(
            MakeRopeCase({.h = h, .g = 2, .e = e, .dtype = dtype}, {0, 1, 2, 77}, {5, 6, 63, 0}));
      }
}

TEST_F(RopeKvWriteCudaTest, NormalisesEveryHeadSize) {
  for (int64_t e : {32, 64, 128})
    for (int64_t h : {1, 5, 16}) {
      SCOPED_TRACE(absl::StrCat("e ", e, " h ", h));
      ExpectAgrees(MakeRopeCase({.h = h, .g = 1, .e = e, .dtype = DType::kBf16, .norm = true},
                                {3, 500}, {17, 18}));
    }
}

TEST_F(RopeKvWriteCudaTest, ManyTokensTakeOneBlockEach) {
  std::vector<int32_t> positions(150);
  std::vector<int64_t> kv_index(150);
  std::iota(positions.begin(), positions.end(), 9);
  std::iota(kv_index.begin(), kv_index.end(), 40);
  ExpectAgrees(MakeRopeCase({.h = 28, .g = 4, .blocks = 12, .dtype = DType::kBf16, .norm = true},
                            positions, kv_index));
}

TEST_F(RopeKvWriteCudaTest, LargePositionsKeepTheirAngle) {
  ExpectAgrees(MakeRopeCase({.e = 128, .dtype = DType::kF16}, {32768, 131071, 1048575}, {1, 2, 3}));
}

TEST_F(RopeKvWriteCudaTest, ScaleMultipliesBothHalves) {
  ExpectAgrees(MakeRopeCase({.dtype = DType::kBf16, .rope_scale = 1.25f}, {3, 500}, {17, 18}));
}

TEST_F(RopeKvWriteCudaTest, IndicesOutsideTheCacheAreDropped) {
  ExpectAgrees(MakeRopeCase({.dtype = DType::kBf16}, {0, 1, 2, 3}, {-1, 64, int64_t{1} << 40, 9}));
}

TEST_F(RopeKvWriteCudaTest, Fp32IsUnimplemented) {
  RopeKvWriteArgs a;
  a.h = 4;
  a.g = 2;
  a.e = 64;
  EXPECT_THAT(RopeKvWriteCuda(a, gpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("f32 on CUDA")));
}

}  // namespace
}  // namespace tessera::testing
