#include "worker/step_trace.h"

#include <memory>
#include <string>

#include "parallel/self_communicator.h"
#include "tests/support/status_matchers.h"
#include "worker/arena.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(TraceDecodeStep, CountsEveryOpOfTheModelByShape) {
  const std::string dir = TESSERA_TEST_DATA "/tiny-qwen2";
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Runtime> runtime, NewRuntime({}));
  OpTrace trace(*OpsFor(Device::kCpu).value(), *runtime);
  LayoutInput layout;
  ASSERT_OK_AND_ASSIGN(layout.config, LoadModelConfig(dir));
  ASSERT_OK_AND_ASSIGN(layout.shard, MakeShard(layout.config, {1, 1}, 0, 8));
  layout.limits = {.context = 256, .max_sequences = 2, .max_step_tokens = 16, .block_size = 16};
  layout.kv_blocks = 16;
  ASSERT_OK_AND_ASSIGN(const auto buffers, MemoryLayout(layout));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Arena> arena, Arena::Create(*runtime, buffers));
  const auto self = NewSelfCommunicator(trace.ops());
  EngineSpec spec;
  spec.layout = layout;
  spec.leader = true;
  spec.load.dummy = true;
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Engine> engine,
                       Engine::Create(spec, {.tp = self.get()}, *arena, *runtime, trace.ops()));
  ASSERT_OK_AND_ASSIGN(const std::string table, TraceDecodeStep(*engine, trace, layout, 100, true));
  EXPECT_THAT(table, HasSubstr("context 100"));
  // 4 layers: qkv of (4 + 2 + 2) heads of 64 by 256, down of 256 by 512; one head of 4096 by 256.
  EXPECT_THAT(table, ::testing::ContainsRegex("linear 512 x 256 normed +4 calls"));
  EXPECT_THAT(table, ::testing::ContainsRegex("linear gated 1024 x 256 normed +4 calls"));
  EXPECT_THAT(table, ::testing::ContainsRegex("linear 256 x 512 +4 calls"));
  EXPECT_THAT(table, ::testing::ContainsRegex("linear 4096 x 256 +1 calls"));
  EXPECT_THAT(table, ::testing::ContainsRegex("paged_attention +4 calls"));
}

}  // namespace
}  // namespace tessera
