#include "coordinator/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

TEST(ChooseRanks, PrefersTheLowestRunInARow) {
  EXPECT_THAT(ChooseRanks({0, 2, 3, 4}, 2), ElementsAre(2, 3));
  EXPECT_THAT(ChooseRanks({0, 1, 2}, 2), ElementsAre(0, 1));
}

TEST(ChooseRanks, TakesTheLowestWhereNoRunIsLongEnough) {
  EXPECT_THAT(ChooseRanks({0, 2, 4}, 2), ElementsAre(0, 2));
}

TEST(ResolveOptions, OutOfRangeNumbersAreNamed) {
  ModelConfig config;
  config.max_positions = 4096;
  v1::ModelOptions options;
  options.set_context(-1);
  EXPECT_THAT(ResolveOptions(options, config, Device::kCpu),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("options.context: -1")));
  options.set_context(0);
  options.set_block_size(1 << 20);
  EXPECT_THAT(ResolveOptions(options, config, Device::kCpu),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("options.block_size")));
}

TEST(ResolveOptions, ContextPastTheModelsIsKept) {
  ModelConfig config;
  config.max_positions = 4096;
  v1::ModelOptions options;
  options.set_context(8192);
  ASSERT_OK_AND_ASSIGN(const auto out, ResolveOptions(options, config, Device::kCpu));
  EXPECT_EQ(out.context(), 8192);
}

TEST(ResolveOptions, DTypeFollowsDeviceAndCheckpoint) {
  ModelConfig config;
  config.max_positions = 4096;
  config.dtype = DType::kF16;
  EXPECT_EQ(ResolveOptions({}, config, Device::kCpu)->dtype(), "float32");
  EXPECT_EQ(ResolveOptions({}, config, Device::kCuda)->dtype(), "float16");
  config.dtype = DType::kF32;
  EXPECT_EQ(ResolveOptions({}, config, Device::kCuda)->dtype(), "bfloat16");
}

TEST(ResolveOptions, DTypeThatTheBackEndLacksIsUnimplemented) {
  ModelConfig config;
  config.max_positions = 4096;
  v1::ModelOptions options;
  options.set_dtype("bfloat16");
  EXPECT_THAT(ResolveOptions(options, config, Device::kCpu),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("options.dtype: bfloat16")));
}

TEST(ResolveOptions, UnknownLoadFormatIsInvalid) {
  ModelConfig config;
  config.max_positions = 4096;
  v1::ModelOptions options;
  options.set_load_format("magic");
  EXPECT_THAT(ResolveOptions(options, config, Device::kCpu),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"magic\"")));
}

class PlaceModelTest : public ::testing::Test {
 protected:
  PlaceModelTest() {
    config_.max_positions = 64;
    for (int i = 0; i < 3; ++i) {
      ranks_[i].set_rank(i);
      ranks_[i].set_total_bytes(1000);
      ranks_[i].set_free_bytes(1000 - 100 * i);
    }
  }
  // Places on the first `idle` ranks with a planner that says `needed`.
  absl::StatusOr<PlacedModel> Place(int idle, int64_t needed, int64_t registered = 3) {
    PlacementRequest request;
    request.config = &config_;
    request.registered = registered;
    for (int i = 0; i < idle; ++i) request.idle.push_back(&ranks_[i]);
    return PlaceModel(request, [this, needed](const PlanInput& input) {
      seen_ = input;
      Plan plan;
      plan.shape.pp = needed;
      plan.explanation = "BECAUSE";
      return plan;
    });
  }

  ModelConfig config_;
  internal::Register ranks_[3];
  PlanInput seen_;
};

TEST_F(PlaceModelTest, PlansForTheLeastFreeMemory) {
  ASSERT_OK(Place(3, 1));
  EXPECT_EQ(seen_.memory_cap, 736);  // 92 % of the 800 bytes that rank 2 has free
}

TEST_F(PlaceModelTest, OptionsCarryTheShapeThatWasFound) {
  ASSERT_OK_AND_ASSIGN(const PlacedModel placed, Place(3, 2));
  EXPECT_EQ(placed.options.tp(), 1);
  EXPECT_EQ(placed.options.pp(), 2);
  EXPECT_THAT(placed.ranks, ElementsAre(0, 1));
}

TEST_F(PlaceModelTest, MoreRanksThanThePoolHasIsFailedPrecondition) {
  EXPECT_THAT(Place(3, 4),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("needs 4 ranks (tp 1 x pp 4); 3 of 3 are idle. BECAUSE")));
}

TEST_F(PlaceModelTest, MoreRanksThanAreIdleIsResourceExhausted) {
  EXPECT_THAT(Place(1, 2),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1 of 3 are idle")));
  EXPECT_THAT(Place(0, 1), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("0 of 3")));
}

}  // namespace
}  // namespace tessera
