#include <cstdint>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_config.h"
#include "tests/kernels/gemm/linear_on_device.h"
#include "tests/kernels/gemm/linear_reference.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::FloatArray;
using testing::StatusIs;

class LinearGpu : public testing::GpuOpTest {
 protected:
  void ExpectMatchesReference(LinearCase c) {
    if (c.dtype == DType::kF32) c.dtype = DType::kBf16;
    c.weight_dtype = c.dtype;
    if (c.y_dtype == DType::kBf16) c.y_dtype = c.dtype;
    SCOPED_TRACE(::testing::Message() << "t=" << c.t << " n=" << c.n << " k=" << c.k
                                      << (c.normed ? " normed" : "") << (c.gated ? " gated" : "")
                                      << (c.bias ? " bias" : "") << (c.residual ? " residual" : "")
                                      << " " << Name(c.dtype) << " to " << Name(c.y_dtype));
    const LinearInputs in = RandomLinear(c, 7);
    LinearOnDevice on(gpu(), in);
    ASSERT_OK(on.Enqueue());
    const LinearMismatch bad = CompareLinear(LinearReference(in), on.Read(), c.n);
    EXPECT_EQ(bad.count, 0) << bad.worst;
  }
  // With outputs of the activations' type.
  static LinearCase Half(LinearCase c, DType dtype = DType::kBf16) {
    c.dtype = c.y_dtype = dtype;
    return c;
  }
};

TEST_F(LinearGpu, FewRowsMatchTheReferenceAroundTileSizes) {
  for (const int64_t t : {1, 2, 3, 7, 8, 9, 15, 16})
    for (const int64_t n : {1, 7, 8, 9, 132, 133, 1055, 1057})
      for (const int64_t k : {8, 56, 64, 72, 520}) ExpectMatchesReference(Half({t, n, k}));
}

TEST_F(LinearGpu, ManyRowsMatchTheReference) {
  for (const int64_t t : {17, 33, 300})
    for (const int64_t n : {1, 8, 33, 264})
      for (const int64_t k : {8, 72, 264}) ExpectMatchesReference(Half({t, n, k}));
}

TEST_F(LinearGpu, EveryTileOfTheFewRowKernelMatches) {
  // 132 blocks: 2, 10, 20, 30, 38 and 70 outputs each, for tiles of 1 to 5 and several passes.
  for (const int64_t n : {264, 1320, 2640, 3960, 5016, 9240})
    for (const int64_t t : {1, 8, 16}) ExpectMatchesReference(Half({t, n, 136}));
}

TEST_F(LinearGpu, F16MatchesTheReference) {
  for (const int64_t t : {1, 9, 40}) {
    ExpectMatchesReference(Half({t, 300, 264}, DType::kF16));
    ExpectMatchesReference(
        Half({.t = t, .n = 300, .k = 264, .normed = true, .gated = true}, DType::kF16));
  }
}

TEST_F(LinearGpu, AddsBiasAndResidual) {
  for (const int64_t t : {1, 5, 16, 33})
    for (const int64_t n : {200, 201}) {
      ExpectMatchesReference(Half({.t = t, .n = n, .k = 64, .bias = true}));
      ExpectMatchesReference(Half({.t = t, .n = n, .k = 64, .residual = true}));
      ExpectMatchesReference(Half({.t = t, .n = n, .k = 64, .bias = true, .residual = true}));
    }
}

TEST_F(LinearGpu, WritesF32Outputs) {
  for (const int64_t t : {1, 16, 33}) {
    ExpectMatchesReference({.t = t, .n = 500, .k = 264, .dtype = DType::kBf16});
    ExpectMatchesReference(
        {.t = t, .n = 100, .k = 264, .bias = true, .residual = true, .dtype = DType::kBf16});
    ExpectMatchesReference({.t = t, .n = 100, .k = 264, .gated = true, .dtype = DType::kBf16});
  }
}

TEST_F(LinearGpu, NormalisesItsInput) {
  // Inside the kernel while x fits beside the ring, before it otherwise.
  for (const int64_t t : {1, 2, 9, 16, 33})
    for (const int64_t k : {8, 264, 896, 4096})
      ExpectMatchesReference(Half({.t = t, .n = 150, .k = k, .normed = true, .bias = true}));
}

TEST_F(LinearGpu, GatesWithSilu) {
  for (const int64_t t : {1, 3, 16, 33})
    for (const int64_t n : {1, 15, 132, 1000, 4864}) {
      ExpectMatchesReference(Half({.t = t, .n = n, .k = 72, .gated = true}));
      ExpectMatchesReference(Half({.t = t, .n = n, .k = 72, .normed = true, .gated = true}));
    }
}

TEST_F(LinearGpu, ModelShapesMatchTheReference) {
  ExpectMatchesReference(Half({.t = 1, .n = 4608, .k = 3584, .normed = true, .bias = true}));
  ExpectMatchesReference(Half({.t = 1, .n = 3584, .k = 3584, .residual = true}));
  ExpectMatchesReference(Half({.t = 1, .n = 4736, .k = 3584, .normed = true, .gated = true}));
  for (const int64_t t : {1, 6, 16})
    ExpectMatchesReference(Half({.t = t, .n = 896, .k = 18944, .residual = true}));
  ExpectMatchesReference(Half({.t = 1, .n = 1024, .k = 29568, .residual = true}));
  ExpectMatchesReference({.t = 1, .n = 20000, .k = 896, .dtype = DType::kBf16});
}

TEST_F(LinearGpu, ResidualMayBeTheOutput) {
  for (const int64_t t : {1, 16, 33}) {
    LinearInputs in = RandomLinear({.t = t,
                                    .n = 136,
                                    .k = 72,
                                    .residual = true,
                                    .dtype = DType::kBf16,
                                    .weight_dtype = DType::kBf16,
                                    .y_dtype = DType::kBf16},
                                   3);
    LinearOnDevice on(gpu(), in);
    const FloatArray y = gpu().Upload(DType::kBf16, in.residual);
    on.args().residual = on.args().y = y.data();
    ASSERT_OK(on.Enqueue());
    const LinearMismatch bad = CompareLinear(LinearReference(in), y.Read(), in.shape.n);
    EXPECT_EQ(bad.count, 0) << "t=" << t << " " << bad.worst;
  }
}

TEST_F(LinearGpu, RepeatsBitForBit) {
  for (const int64_t t : {1, 16, 100}) {
    const LinearInputs in = RandomLinear({.t = t,
                                          .n = 3000,
                                          .k = 2048,
                                          .normed = true,
                                          .gated = true,
                                          .dtype = DType::kBf16,
                                          .weight_dtype = DType::kBf16,
                                          .y_dtype = DType::kBf16},
                                         5);
    LinearOnDevice on(gpu(), in);
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
TEST_F(LinearGpu, OverlappedLaunchesReadFinishedInputs) {
  for (const int64_t t : {1, 7, 16}) {
    const auto layer = [&](int64_t n, int64_t k, bool normed, uint32_t seed) {
      LinearInputs in = RandomLinear({.t = t,
                                      .n = n,
                                      .k = k,
                                      .normed = normed,
                                      .dtype = DType::kBf16,
                                      .weight_dtype = DType::kBf16,
                                      .y_dtype = DType::kBf16},
                                     seed);
      return std::make_unique<LinearOnDevice>(gpu(), in);
    };
    const auto a = layer(2048, 1024, true, 1), b = layer(1024, 2048, false, 2),
               c = layer(1024, 1024, true, 3);
    b->args().x = a->args().y;
    c->args().x = b->args().y;
    for (LinearOnDevice* each : {a.get(), b.get(), c.get()}) {
      ASSERT_OK(each->Enqueue());
      ASSERT_OK(gpu().Sync());
    }
    const std::vector<float> expected = c->Read();
    for (int run = 0; run < 20; ++run) {
      ASSERT_OK(gpu().runtime().Zero(a->args().y, t * 2048 * 2, gpu().stream()));
      ASSERT_OK(gpu().runtime().Zero(b->args().y, t * 1024 * 2, gpu().stream()));
      for (LinearOnDevice* each : {a.get(), b.get(), c.get()}) ASSERT_OK(each->Enqueue());
      ASSERT_EQ(c->Read(), expected) << "run " << run;
    }
  }
}

class LinearGpuErrors : public LinearGpu {
 protected:
  void SetUp() override {
    LinearGpu::SetUp();
    if (IsSkipped()) return;
    on_.emplace(gpu(), RandomLinear({.t = 33,
                                     .n = 16,
                                     .k = 16,
                                     .normed = true,
                                     .dtype = DType::kBf16,
                                     .weight_dtype = DType::kBf16,
                                     .y_dtype = DType::kBf16},
                                    1));
  }
  std::optional<LinearOnDevice> on_;
};

TEST_F(LinearGpuErrors, NegativeSizeIsInvalid) {
  on_->args().n = -1;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearGpuErrors, OddKIsInvalid) {
  on_->args().k = 12;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearGpuErrors, GatedWithBiasIsInvalid) {
  on_->args().gated = true;
  on_->args().bias = on_->args().x;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearGpuErrors, SmallWorkspaceIsInvalid) {
  --on_->args().workspace_bytes;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearGpuErrors, F32ActivationsAreUnimplemented) {
  on_->args().dtype = DType::kF32;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kUnimplemented, _));
}

TEST_F(LinearGpuErrors, WeightsOfAnotherTypeAreUnimplemented) {
  on_->args().weight_dtype = DType::kF16;
  EXPECT_THAT(on_->Enqueue(), StatusIs(absl::StatusCode::kUnimplemented, _));
}

TEST_F(LinearGpuErrors, EmptyProductIsANoOp) {
  on_->args().t = 0;
  EXPECT_OK(on_->Enqueue());
}

}  // namespace
}  // namespace tessera
