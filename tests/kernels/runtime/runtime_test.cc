#include "kernels/runtime/runtime.h"

#include <cstdint>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

std::unique_ptr<Runtime> Cpu() { return *NewRuntime({.device = Device::kCpu}); }

TEST(NewRuntime, ZeroThreadsAreRefused) {
  EXPECT_THAT(NewRuntime({.device = Device::kCpu, .cpu_threads = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 threads")));
}

#ifndef TESSERA_WITH_CUDA
TEST(NewRuntime, CudaInABuildWithoutItIsUnimplemented) {
  EXPECT_THAT(NewRuntime({.device = Device::kCuda}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("no CUDA")));
}
#endif

TEST(CpuRuntime, DeviceMemoryIsAlignedTo256Bytes) {
  auto runtime = Cpu();
  for (int64_t bytes : {0, 1, 255, 256, 257, 100000}) {
    ASSERT_OK_AND_ASSIGN(void* pointer, runtime->AllocateDevice(bytes));
    EXPECT_NE(pointer, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pointer) % 256, 0u) << bytes;
    runtime->FreeDevice(pointer);
  }
}

TEST(CpuRuntime, MoreThanTheMachineHasIsResourceExhausted) {
  const int64_t bytes = std::numeric_limits<int64_t>::max() / 2;
  EXPECT_THAT(Cpu()->AllocateDevice(bytes),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       ::testing::AllOf(HasSubstr("4611686018427387903 bytes asked for"),
                                        HasSubstr("bytes free"))));
}

TEST(CpuRuntime, NegativeBytesAreRefused) {
  EXPECT_THAT(Cpu()->AllocateDevice(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1 bytes")));
  EXPECT_THAT(Cpu()->AllocatePinned(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1 bytes")));
}

TEST(CpuRuntime, FactsDescribeThisMachine) {
  ASSERT_OK_AND_ASSIGN(auto runtime, NewRuntime({.device = Device::kCpu, .cpu_threads = 3}));
  ASSERT_OK_AND_ASSIGN(const DeviceFacts facts, runtime->Facts());
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GT(facts.free_bytes, 0);
  EXPECT_GE(facts.total_bytes, facts.free_bytes);
  EXPECT_EQ(facts.sm_count, 3);
  EXPECT_EQ(facts.compute_capability, 0);
}

TEST(CpuRuntime, CopyAndZeroAreImmediate) {
  auto runtime = Cpu();
  std::vector<int> from{1, 2, 3}, to(3);
  ASSERT_OK(runtime->Copy(to.data(), from.data(), 12, runtime->main_stream()));
  EXPECT_EQ(to, from);
  ASSERT_OK(runtime->Zero(to.data(), 8, runtime->side_stream()));
  EXPECT_EQ(to, (std::vector<int>{0, 0, 3}));
}

TEST(CpuRuntime, EventsAreAlwaysDone) {
  auto runtime = Cpu();
  ASSERT_OK_AND_ASSIGN(auto event, runtime->NewEvent());
  ASSERT_OK(event->Record(runtime->main_stream()));
  ASSERT_OK_AND_ASSIGN(const bool done, event->Done());
  EXPECT_TRUE(done);
  EXPECT_OK(event->Wait());
  EXPECT_OK(event->Delay(runtime->side_stream()));
}

TEST(CpuRuntime, GraphsAreUnimplementedAndNothingRuns) {
  bool ran = false;
  const auto graph = Cpu()->Capture([&] {
    ran = true;
    return absl::OkStatus();
  });
  EXPECT_THAT(graph, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("graphs")));
  EXPECT_FALSE(ran);
}

TEST(OpFixture, AByteWrittenPastAnArrayIsReported) {
  auto runtime = Cpu();
  EXPECT_NONFATAL_FAILURE(
      {
        testing::DeviceBytes bytes(*runtime, {1, 2, 3});
        bytes.data()[3] = 0;
      },
      "past an array of 3 bytes");
}

}  // namespace
}  // namespace tessera
