#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"
#include "kernels/norm/rms_norm.h"
#include "tests/kernels/gemm/linear_on_device.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

class PackedGemvGpu : public testing::GpuOpTest {
 protected:
  void ExpectMatchesReference(PackedCase c) {
    LinearCase& l = c.linear;
    if (l.dtype == DType::kF32) l.dtype = l.y_dtype = DType::kBf16;
    SCOPED_TRACE(::testing::Message()
                 << "t=" << l.t << " n=" << l.n << " k=" << l.k << (l.normed ? " normed" : "")
                 << (l.gated ? " gated" : "") << (l.bias ? " bias" : "")
                 << (l.residual ? " residual" : "") << " " << Name(l.dtype) << " to "
                 << Name(l.y_dtype) << " bits " << c.bits << " group " << c.group
                 << (c.zeros ? " zeros" : "") << (c.ragged ? " ragged" : ""));
    const PackedInputs in = RandomPacked(c, 7);
    PackedOnDevice on(gpu(), in);
    ASSERT_OK(on.Enqueue());
    const LinearMismatch bad = CompareLinear(LinearReference(in.linear), on.Read(), l.n);
    EXPECT_EQ(bad.count, 0) << bad.worst;
  }
};

TEST_F(PackedGemvGpu, MatchesTheReferenceForEveryFormat) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true})
        for (const int64_t group : {32, 64, 128, 256, 1 << 20})
          for (const int64_t t : {1, 8})
            for (const int64_t k : {16, 416, 896})
              ExpectMatchesReference(
                  {.linear = {.t = t, .n = 520, .k = k, .dtype = dtype, .y_dtype = dtype},
                   .bits = bits,
                   .group = group,
                   .zeros = zeros});
}

// One scale for all of k, which ends inside a block of 64 bytes.
TEST_F(PackedGemvGpu, MatchesTheReferenceForAGroupOfExactlyK) {
  for (const int bits : {4, 8})
    for (const bool zeros : {false, true})
      for (const int64_t k : {48, 80, 112, 160, 464})
        ExpectMatchesReference(
            {.linear = {.t = 3, .n = 136, .k = k}, .bits = bits, .group = k, .zeros = zeros});
}

// k of more rounds than the small form takes.
TEST_F(PackedGemvGpu, MatchesTheReferenceForLongK) {
  constexpr int64_t kLong = 4560;
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true})
        for (const int64_t t : {1, 8}) {
          const LinearCase plain = {.t = t, .n = 40, .k = kLong, .dtype = dtype, .y_dtype = dtype};
          for (const int64_t group : {32, 64, 256})
            ExpectMatchesReference({.linear = plain, .bits = bits, .group = group, .zeros = zeros});
          ExpectMatchesReference(
              {.linear = plain, .bits = bits, .zeros = zeros, .ragged = true, .groups = 7});
        }
  // Several strips of a block, gated and not.
  for (const bool gated : {false, true})
    ExpectMatchesReference(
        {.linear = {.t = 8, .n = gated ? 2648 : 5288, .k = kLong, .gated = gated}, .zeros = true});
}

TEST_F(PackedGemvGpu, MatchesTheReferenceForRaggedGroups) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true})
        for (const int64_t t : {1, 8})
          ExpectMatchesReference(
              {.linear = {.t = t, .n = 520, .k = 720, .dtype = dtype, .y_dtype = dtype},
               .bits = bits,
               .zeros = zeros,
               .ragged = true,
               .groups = 7});
}

TEST_F(PackedGemvGpu, MatchesTheReferenceForEveryRowCount) {
  for (const int bits : {4, 8})
    for (int64_t t = 1; t <= kPackedGemvMaxRows; ++t)
      ExpectMatchesReference({.linear = {.t = t, .n = 520, .k = 416}, .bits = bits, .zeros = true});
}

TEST_F(PackedGemvGpu, MatchesTheReferenceForEveryTileCount) {
  // 132 blocks: 1 to 9 and 17 tiles of 8 outputs at most, in one strip or several.
  for (const int64_t n : {8, 16, 136, 1000, 1152, 2312, 3400, 4400, 5512, 6568, 7624, 8648, 17600})
    for (const int64_t t : {1, 3, 8})
      for (const int bits : {4, 8})
        ExpectMatchesReference({.linear = {.t = t, .n = n, .k = 144}, .bits = bits, .zeros = true});
}

TEST_F(PackedGemvGpu, GatesWithSilu) {
  for (const int bits : {4, 8})
    for (const bool zeros : {false, true})
      for (const int64_t n : {8, 136, 1008, 4864})
        for (const int64_t t : {1, 5, 8}) {
          ExpectMatchesReference(
              {.linear = {.t = t, .n = n, .k = 80, .gated = true}, .bits = bits, .zeros = zeros});
          ExpectMatchesReference(
              {.linear = {.t = t, .n = n, .k = 80, .normed = true, .gated = true},
               .bits = bits,
               .group = 32,
               .zeros = zeros});
        }
}

TEST_F(PackedGemvGpu, NormalisesItsInput) {
  for (const int64_t t : {1, 2, 3, 5, 8})
    for (const int64_t k : {48, 896, 4096})
      ExpectMatchesReference({.linear = {.t = t, .n = 152, .k = k, .normed = true, .bias = true}});
}

// More rows than it serves: the norm runs first, then the many-row kernel.
TEST_F(PackedGemvGpu, NormalisesAheadOfTheManyRowKernel) {
  const PackedInputs in = RandomPacked({.linear = {.t = 17,
                                                   .n = 152,
                                                   .k = 896,
                                                   .normed = true,
                                                   .dtype = DType::kBf16,
                                                   .y_dtype = DType::kBf16}},
                                       3);
  PackedOnDevice whole(gpu(), in), apart(gpu(), in);
  ASSERT_OK(whole.Enqueue());
  LinearArgs& args = apart.args();
  const testing::FloatArray normed = gpu().Output(DType::kBf16, args.t * args.k);
  ASSERT_OK(RmsNormCuda({.x = args.x,
                         .weight = args.norm_weight,
                         .y = normed.data(),
                         .t = args.t,
                         .d = args.k,
                         .eps = args.norm_eps,
                         .dtype = args.dtype},
                        apart.stream()));
  args.x = normed.data();
  args.norm_weight = nullptr;
  ASSERT_OK(apart.Enqueue());
  EXPECT_EQ(whole.Read(), apart.Read());
}

TEST_F(PackedGemvGpu, AddsBiasAndResidualAndWritesF32) {
  for (const int64_t t : {1, 5, 8}) {
    ExpectMatchesReference({.linear = {.t = t, .n = 200, .k = 128, .bias = true}});
    ExpectMatchesReference({.linear = {.t = t, .n = 200, .k = 128, .residual = true}});
    ExpectMatchesReference({.linear = {.t = t,
                                       .n = 200,
                                       .k = 128,
                                       .bias = true,
                                       .residual = true,
                                       .dtype = DType::kBf16,
                                       .y_dtype = DType::kF32}});
  }
}

TEST_F(PackedGemvGpu, ModelShapesMatchTheReference) {
  for (const int64_t t : {1, 4, 8})
    ExpectMatchesReference(
        {.linear = {.t = t, .n = 1152, .k = 3584, .normed = true, .bias = true}});
  ExpectMatchesReference({.linear = {.t = 1, .n = 136, .k = 18944, .residual = true}});
  ExpectMatchesReference({.linear = {.t = 1, .n = 264, .k = 29568}, .bits = 8});
  ExpectMatchesReference({.linear = {.t = 1, .n = 1056, .k = 3584, .normed = true, .gated = true}});
}

// By the kernel for 2 to 16 rows, and 9 and 16 rows of a small W by the many-row kernel, behind the
// norm and not.
TEST_F(PackedGemvGpu, LargerInputsMatchTheReference) {
  ExpectMatchesReference({.linear = {.t = 12, .n = 2184, .k = 9472, .normed = true}});
  for (const int64_t t : {2, 5, 9, 16})
    for (const bool normed : {false, true})
      for (const int bits : {4, 8})
        ExpectMatchesReference({.linear = {.t = t, .n = 152, .k = 9472, .normed = normed},
                                .bits = bits,
                                .zeros = t == 5});
}

TEST_F(PackedGemvGpu, RepeatsBitForBit) {
  for (const int64_t t : {1, 8}) {
    const PackedInputs in = RandomPacked({.linear = {.t = t,
                                                     .n = 3000,
                                                     .k = 2048,
                                                     .normed = true,
                                                     .gated = true,
                                                     .dtype = DType::kBf16,
                                                     .y_dtype = DType::kBf16},
                                          .zeros = true},
                                         5);
    PackedOnDevice on(gpu(), in);
    ASSERT_OK(on.Enqueue());
    const std::vector<float> first = on.Read();
    for (int i = 0; i < 5; ++i) {
      ASSERT_OK(on.Enqueue());
      EXPECT_EQ(on.Read(), first);
    }
  }
}

// Three layers whose outputs feed the next, so that a kernel that starts early and reads before
// its input is complete gives other numbers than with a wait between the layers.
TEST_F(PackedGemvGpu, OverlappedLaunchesReadFinishedInputs) {
  for (const int64_t t : {1, 7, 16}) {
    const auto layer = [&](int64_t n, int64_t k, bool normed, uint32_t seed) {
      return std::make_unique<PackedOnDevice>(gpu(),
                                              RandomPacked({.linear = {.t = t,
                                                                       .n = n,
                                                                       .k = k,
                                                                       .normed = normed,
                                                                       .dtype = DType::kBf16,
                                                                       .y_dtype = DType::kBf16}},
                                                           seed));
    };
    const auto a = layer(2048, 1024, true, 1), b = layer(1024, 2048, false, 2),
               c = layer(1024, 1024, true, 3);
    b->args().x = a->args().y;
    c->args().x = b->args().y;
    for (PackedOnDevice* each : {a.get(), b.get(), c.get()}) {
      ASSERT_OK(each->Enqueue());
      ASSERT_OK(gpu().Sync());
    }
    const std::vector<float> expected = c->Read();
    for (int run = 0; run < 20; ++run) {
      ASSERT_OK(gpu().runtime().Zero(a->args().y, t * 2048 * 2, gpu().stream()));
      ASSERT_OK(gpu().runtime().Zero(b->args().y, t * 1024 * 2, gpu().stream()));
      for (PackedOnDevice* each : {a.get(), b.get(), c.get()}) ASSERT_OK(each->Enqueue());
      ASSERT_EQ(c->Read(), expected) << "run " << run;
    }
  }
}

}  // namespace
}  // namespace tessera
