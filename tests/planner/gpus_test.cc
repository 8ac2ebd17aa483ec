#include "planner/gpus.h"

#include <set>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

TEST(FindGpu, H200HasTheMeasuredFigures) {
  ASSERT_OK_AND_ASSIGN(const GpuFacts gpu, FindGpu("h200"));
  EXPECT_EQ(gpu.memory_bytes, int64_t{143771} << 20);  // nvidia-smi
  EXPECT_EQ(gpu.bandwidth, 4.50e12);                   // PERFORMANCE.md, read-only stream
  EXPECT_EQ(gpu.spec.sm_count, 132);
}

TEST(FindGpu, OtherCardsGet94PercentOfTheDatasheet) {
  ASSERT_OK_AND_ASSIGN(const GpuFacts gpu, FindGpu("a100-80gb"));
  EXPECT_NEAR(gpu.bandwidth, 0.94 * 2.039e12, 1e6);
}

TEST(FindGpu, TakesAnyCaseAndShortNames) {
  ASSERT_OK_AND_ASSIGN(const GpuFacts gpu, FindGpu("H100"));
  EXPECT_EQ(gpu.name, "h100-80gb");
}

TEST(FindGpu, UnknownNameListsTheKnownOnes) {
  EXPECT_THAT(FindGpu("h300"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("h200, ")));
}

TEST(KnownGpus, NamesAreUniqueAndFactsPositive) {
  std::set<std::string> names;
  for (const GpuFacts& gpu : KnownGpus()) {
    SCOPED_TRACE(gpu.name);
    EXPECT_TRUE(names.insert(gpu.name).second);
    EXPECT_GT(gpu.memory_bytes, 0);
    EXPECT_GT(gpu.bandwidth, 0);
    EXPECT_GT(gpu.all_reduce_us, 0);
    EXPECT_GT(gpu.spec.sm_count, 0);
    EXPECT_EQ(gpu.spec.device, Device::kCuda);
  }
}

TEST(FactsOf, KeepsRegisteredSizesAndFindsTheSpeedByName) {
  const GpuFacts gpu =
      FactsOf({.name = "NVIDIA H200", .cuda = true, .total_bytes = 100, .sm_count = 7});
  EXPECT_EQ(gpu.bandwidth, 4.50e12);
  EXPECT_EQ(gpu.memory_bytes, 100);
  EXPECT_EQ(gpu.spec.sm_count, 7);
}

TEST(FactsOf, TellsCardsApartWhoseNamesContainEachOther) {
  EXPECT_EQ(FactsOf({.name = "NVIDIA L40S", .cuda = true}).name, "l40s");
  EXPECT_EQ(FactsOf({.name = "NVIDIA L40", .cuda = true}).name, "l40");
  EXPECT_EQ(FactsOf({.name = "NVIDIA L4", .cuda = true}).name, "l4");
  EXPECT_EQ(FactsOf({.name = "NVIDIA H100 PCIe", .cuda = true}).name, "h100-pcie");
  EXPECT_EQ(FactsOf({.name = "NVIDIA H100 80GB HBM3", .cuda = true}).name, "h100-80gb");
  EXPECT_EQ(FactsOf({.name = "NVIDIA A100-SXM4-40GB", .cuda = true}).name, "a100-40gb");
}

TEST(FactsOf, UnknownCardGetsTheSlowestSpeed) {
  const GpuFacts gpu =
      FactsOf({.name = "NVIDIA Next", .cuda = true, .total_bytes = 1, .sm_count = 1});
  for (const GpuFacts& known : KnownGpus()) EXPECT_LE(gpu.bandwidth, known.bandwidth);
}

TEST(FactsOf, CpuRankHasItsMemory) {
  const GpuFacts cpu = FactsOf({.name = "some cpu", .cuda = false, .total_bytes = 12345});
  EXPECT_EQ(cpu.spec.device, Device::kCpu);
  EXPECT_EQ(cpu.memory_bytes, 12345);
}

}  // namespace
}  // namespace tessera
