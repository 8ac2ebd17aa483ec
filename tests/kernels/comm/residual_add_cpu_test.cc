#include <vector>

#include "kernels/comm/residual_add.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::StatusIs;

TEST(ResidualAddCpu, AddsInPlace) {
  const std::vector<float> add = {1.f, 2.f, 3.f};
  std::vector<float> residual = {10.f, 20.f, 30.f};
  ASSERT_OK(ResidualAddCpu({.add = add.data(), .residual = residual.data(), .count = 3}, {}));
  EXPECT_THAT(residual, ::testing::ElementsAre(11.f, 22.f, 33.f));
}

TEST(ResidualAddCpu, RefusesWhatItCannotAdd) {
  EXPECT_THAT(ResidualAddCpu({.count = -1}, {}), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(ResidualAddCpu({.count = 1, .dtype = DType::kBf16}, {}),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

}  // namespace
}  // namespace tessera
