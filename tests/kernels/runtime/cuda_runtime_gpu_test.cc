#include <cstring>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/status_macros.h"
#include "kernels/runtime/cuda_runtime.h"
#include "kernels/runtime/cuda_status.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::GpuOpTest;
using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CheckDriver, SameMajorVersionIsEnough) {
  EXPECT_OK(CheckDriver(13000, 13020));
  EXPECT_OK(CheckDriver(14010, 13000));
}
TEST(CheckDriver, OlderMajorNamesBothVersions) {
  EXPECT_THAT(CheckDriver(12080, 13000),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("CUDA 12.8"), HasSubstr("CUDA 13.0"))));
}
TEST(CheckDriver, NoDriverSaysSo) {
  EXPECT_THAT(CheckDriver(0, 13000),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no NVIDIA driver")));
}

TEST(CudaStatus, CarriesNameAndTextAndMapsOutOfMemory) {
  EXPECT_OK(CudaStatus(cudaSuccess, "x"));
  EXPECT_THAT(CudaStatus(cudaErrorInvalidValue, "my call"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("my call: cudaErrorInvalidValue: ")));
  EXPECT_EQ(CudaStatus(cudaErrorMemoryAllocation, "x").code(),
            absl::StatusCode::kResourceExhausted);
}

class CudaRuntimeTest : public GpuOpTest {
 protected:
  Runtime& runtime() { return gpu().runtime(); }
};

TEST_F(CudaRuntimeTest, ADeviceNumberBeyondTheLastIsFailedPrecondition) {
  EXPECT_THAT(NewRuntime({.device = Device::kCuda, .device_index = 99}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("device 99")));
}

TEST_F(CudaRuntimeTest, TooMuchMemoryIsResourceExhaustedAndLeavesNoErrorBehind) {
  EXPECT_THAT(runtime().AllocateDevice(int64_t{1} << 50),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("1125899906842624 bytes asked for"), HasSubstr("free"))));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(CudaRuntimeTest, NegativeBytesAreRefused) {
  EXPECT_EQ(runtime().AllocateDevice(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(runtime().AllocatePinned(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaRuntimeTest, FactsNameTheGpu) {
  ASSERT_OK_AND_ASSIGN(const DeviceFacts facts, runtime().Facts());
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GT(facts.total_bytes, facts.free_bytes);
  EXPECT_GE(facts.compute_capability, 80);
}

TEST_F(CudaRuntimeTest, PinnedMemoryGoesToTheDeviceAndBack) {
  constexpr int64_t kBytes = 1 << 20;
  ASSERT_OK_AND_ASSIGN(void* host, runtime().AllocatePinned(kBytes));
  ASSERT_OK_AND_ASSIGN(void* device, runtime().AllocateDevice(kBytes));
  std::memset(host, 0x5a, kBytes);
  ASSERT_OK(runtime().Copy(device, host, kBytes, gpu().stream()));
  ASSERT_OK(runtime().Zero(device, 16, gpu().stream()));
  ASSERT_OK(runtime().Copy(host, device, kBytes, gpu().stream()));
  ASSERT_OK(gpu().Sync());
  const auto* bytes = static_cast<const uint8_t*>(host);
  EXPECT_EQ(bytes[15], 0);
  EXPECT_EQ(bytes[16], 0x5a);
  EXPECT_EQ(bytes[kBytes - 1], 0x5a);
  runtime().FreeDevice(device);
  runtime().FreePinned(host);
}

TEST_F(CudaRuntimeTest, AnEventOrdersTheSideStreamAfterTheMainOne) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  auto a = gpu().Workspace(kBytes), b = gpu().Workspace(4);
  ASSERT_OK_AND_ASSIGN(auto event, runtime().NewEvent());
  for (int i = 0; i < 20; ++i) ASSERT_OK(runtime().Zero(a.data(), kBytes, runtime().main_stream()));
  ASSERT_OK(event->Record(runtime().main_stream()));
  ASSERT_OK(event->Delay(runtime().side_stream()));
  ASSERT_OK(runtime().Copy(b.data(), a.data() + kBytes - 4, 4, runtime().side_stream()));
  ASSERT_OK(runtime().Synchronize(runtime().side_stream()));
  ASSERT_OK_AND_ASSIGN(const bool done, event->Done());
  EXPECT_TRUE(done);
  EXPECT_EQ(b.Read(), std::vector<uint8_t>(4, 0));
}

TEST_F(CudaRuntimeTest, AnUnfinishedEventIsNotDoneAndLeavesNoErrorBehind) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  auto a = gpu().Workspace(kBytes);
  ASSERT_OK_AND_ASSIGN(auto event, runtime().NewEvent());
  for (int i = 0; i < 300; ++i) ASSERT_OK(runtime().Zero(a.data(), kBytes, gpu().stream()));
  ASSERT_OK(event->Record(gpu().stream()));
  ASSERT_OK_AND_ASSIGN(const bool early, event->Done());
  EXPECT_FALSE(early);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  ASSERT_OK(event->Wait());
  ASSERT_OK_AND_ASSIGN(const bool late, event->Done());
  EXPECT_TRUE(late);
}

TEST_F(CudaRuntimeTest, ACapturedSequenceRunsOnLaunchOnly) {
  auto a = gpu().Upload<int32_t>({1, 2}), b = gpu().Upload<int32_t>({7, 7});
  ASSERT_OK_AND_ASSIGN(auto graph, runtime().Capture([&]() -> absl::Status {
    RETURN_IF_ERROR(runtime().Copy(b.data(), a.data(), 8, gpu().stream()));
    return runtime().Zero(a.data(), 4, gpu().stream());
  }));
  EXPECT_EQ(b.Read(), (std::vector<int32_t>{7, 7}));
  ASSERT_OK(graph->Launch(gpu().stream()));
  EXPECT_EQ(b.Read(), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(a.Read(), (std::vector<int32_t>{0, 2}));
}

TEST_F(CudaRuntimeTest, AnErrorWhileCapturingIsHandedOnAndTheStreamStaysUsable) {
  const auto graph = runtime().Capture([] { return absl::UnimplementedError("no such kernel"); });
  EXPECT_THAT(graph, StatusIs(absl::StatusCode::kUnimplemented, "no such kernel"));
  auto a = gpu().Upload<int32_t>({1});
  EXPECT_OK(runtime().Zero(a.data(), 4, gpu().stream()));
  EXPECT_EQ(a.Read(), (std::vector<int32_t>{0}));
}

TEST_F(CudaRuntimeTest, RangesNest) {
  runtime().PushRange("outer");
  runtime().PushRange("inner");
  runtime().PopRange();
  runtime().PopRange();
}

}  // namespace
}  // namespace tessera
