#include <algorithm>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/step/prepare_step.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

struct Outputs {
  std::vector<int32_t> token_ids, table;
  std::vector<int64_t> kv_index;
  bool operator==(const Outputs& o) const {
    return token_ids == o.token_ids && table == o.table && kv_index == o.kv_index;
  }
};

class PrepareStepGpuTest : public GpuOpTest {
 protected:
  static constexpr int64_t kSlots = 300, kMaxBlocks = 70, kSeqs = 257, kVocab = 5000, kLast = 256;

  // `t` tokens and `patches` patches to places of their own, with padding and bad values between.
  static Outputs Run(const OpDevice& on, int64_t t, int64_t patches) {
    SeededRandom random(static_cast<uint64_t>(t * 31 + patches));
    const auto draw = [&](int64_t count, int64_t low, int64_t high) {
      std::vector<int32_t> v(static_cast<size_t>(count));
      for (int32_t& x : v) x = static_cast<int32_t>(low + random.Below(high - low));
      return v;
    };
    std::vector<int32_t> source = draw(t, -kLast - 2, kVocab + 2);
    for (size_t i = 0; i < source.size(); i += 13) source[i] = PrepareStepArgs::kPaddingToken;
    const auto source_on = on.Upload(source), seq = on.Upload(draw(t, -1, kSeqs + 1));
    const auto positions = on.Upload(draw(t, -2, kMaxBlocks * 16 + 2));
    const auto seq_slot = on.Upload(draw(kSeqs, -1, kSlots + 1));
    const auto last = on.Upload(draw(kLast, -1, kVocab + 1));
    const auto table = on.Upload(draw(kSlots * kMaxBlocks, -1, 100000));
    std::vector<int32_t> changes;
    for (int64_t i = 0; i < patches; ++i) {  // 7919 is a prime: no place twice
      const int64_t place = i * 7919 % (kSlots * kMaxBlocks);
      changes.insert(changes.end(), {static_cast<int32_t>(place / kMaxBlocks),
                                     static_cast<int32_t>(place % kMaxBlocks),
                                     static_cast<int32_t>(random.Below(100000))});
    }
    for (size_t i = 0; i < changes.size(); i += 3 * 17) changes[i] = -1;
    const auto changes_on = on.Upload(changes);
    const auto ids = on.Output<int32_t>(t);
    const auto kv = on.Output<int64_t>(t);
    const PrepareStepArgs args = {.token_source = source_on.data(),
                                  .token_seq = seq.data(),
                                  .positions = positions.data(),
                                  .seq_slot = seq_slot.data(),
                                  .block_patches = changes_on.data(),
                                  .last_ids = last.data(),
                                  .block_table = table.data(),
                                  .token_ids = ids.data(),
                                  .kv_index = kv.data(),
                                  .t = t,
                                  .s = kSeqs,
                                  .patches = patches,
                                  .last_rows = kLast,
                                  .slots = kSlots,
                                  .max_blocks = kMaxBlocks,
                                  .block_size = 16,
                                  .vocab = kVocab};
    EXPECT_OK(on.device() == Device::kCpu ? PrepareStepCpu(args, on.stream())
                                          : PrepareStepCuda(args, on.stream()));
    return {ids.Read(), table.Read(), kv.Read()};
  }
};

TEST_F(PrepareStepGpuTest, AgreesWithTheCpu) {
  for (const int64_t t : {0, 1, 2, 31, 32, 33, 1023, 1024, 1025, 16384}) {
    for (const int64_t patches : {0, 1, 33, 1025, 16384})
      EXPECT_TRUE(Run(gpu(), t, patches) == Run(cpu(), t, patches)) << t << " tokens " << patches;
  }
}

TEST_F(PrepareStepGpuTest, BadSizesAreRefused) {
  PrepareStepArgs args;
  EXPECT_THAT(PrepareStepCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("block_size=0")));
}

}  // namespace
}  // namespace tessera::testing
