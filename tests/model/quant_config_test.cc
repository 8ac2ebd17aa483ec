#include "model/quant_config.h"

#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

absl::StatusOr<QuantFormat> Parse(const json& quant) {
  return ParseQuantConfig(quant, "config.json: quant");
}

TEST(ParseQuantConfig, ReadsTheOlderNamesOfBitsAndGroup) {
  const json quant = {{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 64}};
  ASSERT_OK_AND_ASSIGN(const QuantFormat format, Parse(quant));
  EXPECT_EQ(format.bits, 4);
  EXPECT_EQ(format.group, 64);
}

TEST(ParseQuantConfig, MissingFieldsAreNamed) {
  for (const std::string field : {"quant_method", "bits", "group_size"}) {
    json quant = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
    quant.erase(field);
    EXPECT_THAT(Parse(quant), StatusIs(kInvalid, HasSubstr(field)));
  }
}

TEST(ParseQuantConfig, ReadsGptq) {
  const json quant = {{"quant_method", "gptq"}, {"bits", 4},         {"group_size", 128},
                      {"desc_act", false},      {"sym", true},       {"damp_percent", 0.01},
                      {"static_groups", false}, {"dynamic", nullptr}};
  ASSERT_OK_AND_ASSIGN(const QuantFormat format, Parse(quant));
  EXPECT_EQ(format.method, QuantMethod::kGptq);
  EXPECT_EQ(format.bits, 4);
  EXPECT_EQ(format.group, 128);
  EXPECT_TRUE(format.symmetric);
}

TEST(ParseQuantConfig, ReadsAwqWithItsZeroPoints) {
  const json quant = {{"quant_method", "awq"}, {"bits", 4},
                      {"group_size", 128},     {"version", "GEMM"},
                      {"zero_point", true},    {"modules_to_not_convert", nullptr}};
  ASSERT_OK_AND_ASSIGN(const QuantFormat format, Parse(quant));
  EXPECT_EQ(format.method, QuantMethod::kAwq);
  EXPECT_EQ(format.bits, 4);
  EXPECT_FALSE(format.symmetric);
}

TEST(ParseQuantConfig, QuantizationsThatAreNotReadAreNamed) {
  const json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
  const json awq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}};
  const struct {
    json base;
    std::string field;
    json value;
  } cases[] = {
      {gptq, "quant_method", "bitsandbytes"},
      {gptq, "desc_act", true},
      {gptq, "bits", 3},
      {gptq, "checkpoint_format", "gptq_v2"},
      {gptq, "lm_head", true},
      {gptq, "dynamic", {{"-:.*", 1}}},
      {awq, "bits", 8},
      {awq, "version", "gemv"},
      {awq, "modules_to_not_convert", {"gate"}},
  };
  for (const auto& [base, field, value] : cases) {
    json quant = base;
    quant[field] = value;
    EXPECT_THAT(Parse(quant), StatusIs(kUnimplemented,
                                       AllOf(HasSubstr("config.json: quant: "), HasSubstr(field))))
        << quant;
  }
}

TEST(ParseQuantConfig, AbsurdQuantizationsAreInvalid) {
  for (const auto& [bits, group] : {std::pair(5, 128), {4, 0}, {4, -2}, {4, 12}, {-4, 128}}) {
    const json quant = {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group}};
    EXPECT_THAT(Parse(quant), StatusIs(kInvalid, HasSubstr("config.json: quant: "))) << quant;
  }
}

}  // namespace
}  // namespace tessera
