#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/config.h"
#include "model/file.h"
#include "model/json.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;

// Frequencies that transformers computed; tools/make_test_models.py wrote the file.
json Vectors() {
  const std::string path = TESSERA_TEST_DATA "/models/rope_vectors.json";
  const absl::StatusOr<std::string> text = ReadFile(path, int64_t{1} << 20);
  if (!text.ok()) return json();
  const absl::StatusOr<json> vectors = ParseJson(*text, path);
  return vectors.ok() ? *vectors : json();
}

TEST(MakeRopeTable, AgreesWithTransformers) {
  const json vectors = Vectors();
  ASSERT_EQ(vectors["cases"].size(), 13u);
  for (const json& given : vectors["cases"]) {
    SCOPED_TRACE(given["rope"].dump());
    ASSERT_OK_AND_ASSIGN(const RopeConfig rope, ParseRope({{"rope_parameters", given["rope"]}},
                                                          given["max_positions"], "config.json"));
    const RopeTable table = MakeRopeTable(rope, given["head_size"]);
    EXPECT_NEAR(table.scale, given["scale"], 1e-6);
    // transformers computes in fp32. Its power is off by about 1e-6 at most; yarn's 1 - ramp by
    // 2^-24, which weighs `factor` times as much where the ramp is nearly 1.
    const double tolerance = std::max(1e-6, rope.factor * std::ldexp(1.0, -23));
    ASSERT_EQ(table.inv_freq.size(), given["inv_freq"].size());
    for (size_t i = 0; i < table.inv_freq.size(); ++i) {
      const double wanted = given["inv_freq"][i];
      EXPECT_NEAR(table.inv_freq[i], wanted, tolerance * wanted) << i;
    }
  }
}

// theta^(-2i/e) by hand: theta 10^4, e 8 gives 1, 10^-1, 10^-2, 10^-3.
TEST(MakeRopeTable, DefaultFrequenciesFallGeometrically) {
  const RopeTable table = MakeRopeTable({.theta = 1e4}, 8);
  ASSERT_EQ(table.inv_freq.size(), 4u);
  EXPECT_FLOAT_EQ(table.inv_freq[0], 1.f);
  EXPECT_FLOAT_EQ(table.inv_freq[1], 0.1f);
  EXPECT_FLOAT_EQ(table.inv_freq[2], 0.01f);
  EXPECT_FLOAT_EQ(table.inv_freq[3], 0.001f);
  EXPECT_EQ(table.scale, 1.f);
}

TEST(MakeRopeTable, YarnScaleFollowsTheFactor) {
  const RopeConfig rope = {.kind = RopeKind::kYarn, .factor = 4.0, .original_max_positions = 32768};
  EXPECT_FLOAT_EQ(MakeRopeTable(rope, 128).scale, static_cast<float>(0.1 * std::log(4.0) + 1.0));
}

TEST(MakeRopeTable, YarnScaleAsGivenWins) {
  const RopeConfig rope = {.kind = RopeKind::kYarn,
                           .factor = 4.0,
                           .original_max_positions = 32768,
                           .attention_factor = 0.75};
  EXPECT_EQ(MakeRopeTable(rope, 128).scale, 0.75f);
}

// Every setting the parser lets through gives finite numbers, at the ends of the ranges too.
TEST(MakeRopeTable, ExtremeSettingsStayFinite) {
  for (const double theta : {1.001, 1e12}) {
    for (const int64_t positions : {int64_t{1}, int64_t{1} << 24}) {
      for (const double beta : {1e-6, 1e6}) {
        const RopeConfig rope = {.kind = RopeKind::kYarn,
                                 .theta = theta,
                                 .factor = 1e6,
                                 .original_max_positions = positions,
                                 .beta_fast = beta,
                                 .beta_slow = beta};
        for (const float frequency : MakeRopeTable(rope, 128).inv_freq)
          EXPECT_TRUE(std::isfinite(frequency)) << theta << " " << positions << " " << beta;
      }
    }
  }
}

TEST(ParseRope, RopeScalingWinsOverRopeParameters) {
  const json config = {{"rope_theta", 5e5},
                       {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                       {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}};
  ASSERT_OK_AND_ASSIGN(const RopeConfig rope, ParseRope(config, 4096, "config.json"));
  EXPECT_EQ(rope.kind, RopeKind::kYarn);
  EXPECT_EQ(rope.theta, 5e5);
}

TEST(ParseRope, EmptyOrNullScalingIsDefault) {
  for (const json& scaling : {json(nullptr), json::object()}) {
    ASSERT_OK_AND_ASSIGN(const RopeConfig rope,
                         ParseRope({{"rope_scaling", scaling}}, 4096, "config.json"));
    EXPECT_EQ(rope.kind, RopeKind::kDefault);
  }
}

}  // namespace
}  // namespace tessera
