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
    // The same operations in fp32, but torch's power may be one ulp off: 2^-23 of the value, and as
    // much again where yarn and llama3 go on from it.
    const double tolerance = std::ldexp(1.0, -22);
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

// transformers' standardize_rope_params gives the outer field priority.
TEST(ParseRope, OriginalPositionsBesideTheScalingWin) {
  json config = {{"original_max_position_embeddings", 128},
                 {"rope_scaling",
                  {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}}}};
  ASSERT_OK_AND_ASSIGN(const RopeConfig outer, ParseRope(config, 4096, "config.json"));
  EXPECT_EQ(outer.original_max_positions, 128);

  config.erase("original_max_position_embeddings");
  ASSERT_OK_AND_ASSIGN(const RopeConfig inner, ParseRope(config, 4096, "config.json"));
  EXPECT_EQ(inner.original_max_positions, 64);

  config["rope_scaling"].erase("original_max_position_embeddings");
  ASSERT_OK_AND_ASSIGN(const RopeConfig neither, ParseRope(config, 4096, "config.json"));
  EXPECT_EQ(neither.original_max_positions, 4096);
}

// transformers asks `get("truncate", True)` and then tests the value, so null rounds nothing.
TEST(ParseRope, TruncateIsTrueWhereAbsentAndFalseWhereNull) {
  json scaling = {{"type", "yarn"}, {"factor", 4.0}};
  ASSERT_OK_AND_ASSIGN(const RopeConfig absent,
                       ParseRope({{"rope_scaling", scaling}}, 4096, "config.json"));
  EXPECT_TRUE(absent.truncate);

  scaling["truncate"] = nullptr;
  ASSERT_OK_AND_ASSIGN(const RopeConfig null,
                       ParseRope({{"rope_scaling", scaling}}, 4096, "config.json"));
  EXPECT_FALSE(null.truncate);
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
