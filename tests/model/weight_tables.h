// Weight tables of a small model, for tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <gtest/gtest.h>

#include "model/config.h"
#include "model/shard.h"
#include "model/weight_table.h"

namespace tessera::testing {

// 3 layers of d 64, 12 heads of 32 on 2, f 88, vocabulary 203; biases, query and key norms.
inline ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "Qwen2ForCausalLM";
  config.layers = 3;
  config.hidden = 64;
  config.heads = 12;
  config.kv_heads = 2;
  config.head_size = 32;
  config.intermediate = 88;
  config.vocab = 203;
  config.qkv_bias = true;
  config.qk_norm = true;
  return config;
}

// The table of one rank, feed-forward rows in units of 8; an error fails the test.
inline std::vector<WeightSpec> MustTable(const ModelConfig& config, ParallelShape shape,
                                         int64_t rank) {
  const absl::StatusOr<Shard> shard = MakeShard(config, shape, rank, 8);
  EXPECT_TRUE(shard.ok()) << shard.status();
  if (!shard.ok()) return {};
  const absl::StatusOr<std::vector<WeightSpec>> table = WeightTable(config, *shard);
  EXPECT_TRUE(table.ok()) << table.status();
  return table.ok() ? *table : std::vector<WeightSpec>();
}

inline std::vector<std::string> Names(const std::vector<WeightSpec>& table) {
  std::vector<std::string> names;
  for (const WeightSpec& spec : table) names.push_back(spec.name);
  return names;
}

// The row of that name; none fails the test.
inline const WeightSpec& Find(const std::vector<WeightSpec>& table, const std::string& name) {
  static const WeightSpec kNone;
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const WeightSpec& spec) { return spec.name == name; });
  EXPECT_NE(found, table.end()) << name;
  return found == table.end() ? kNone : *found;
}

}  // namespace tessera::testing
