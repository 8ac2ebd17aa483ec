#include "layers/decoder.h"

#include <memory>

#include "parallel/self_communicator.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

DecoderSpec OneLayer(Communicator& tp) {
  DecoderSpec spec;
  spec.config.layers = 1;
  spec.config.hidden = 64;
  spec.config.heads = spec.config.kv_heads = 2;
  spec.config.head_size = 32;
  spec.config.intermediate = 64;
  spec.config.vocab = 100;
  spec.shard = MakeShard(spec.config, {1, 1}, 0, 8).value();
  spec.context = {.ops = OpsFor(Device::kCpu).value(), .tp = &tp};
  return spec;
}

TEST(WeightMap, MissingWeightsAreNotFoundOrEmpty) {
  const WeightMap weights;
  EXPECT_THAT(weights.Get("layers.0.qkv"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("layers.0.qkv")));
  EXPECT_EQ(weights.GetOptional("layers.0.qkv_bias").data, nullptr);
}

TEST(Decoder, NamesTheWeightItMisses) {
  const auto self = NewSelfCommunicator(*OpsFor(Device::kCpu).value());
  WeightMap weights;
  weights.Add("embed", {});
  EXPECT_THAT(Decoder::Create(OneLayer(*self), weights),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("layers.0.attn_norm")));
}

}  // namespace
}  // namespace tessera
