#include "planner/gpus.h"

#include <algorithm>
#include <array>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

namespace tessera {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Of a datasheet's bandwidth, what a read-only stream reaches: 4.50 of 4.80 TB/s on the H200.
constexpr double kReachable = 0.94;

// NCCL all-reduce of 16 KB in a CUDA graph between two H200s over NVLink, measured: 6.7 us.
constexpr double kNvlinkUs = 6.7;
// Over PCIe, through host memory: an assumption, about three times NVLink's.
constexpr double kPcieUs = 20.0;

struct Row {
  absl::string_view name;
  absl::string_view driver_name;  // part of what the driver calls it
  int64_t memory_mib;             // as nvidia-smi prints it
  double datasheet_tb_s;
  int sm_count;
  double all_reduce_us;
};

// A driver name must come before any other that is part of it ("L40S" before "L40").
constexpr std::array<Row, 16> kRows = {{
    // NVIDIA Blackwell (HGX B200) datasheet: 180 GB, 8 TB/s. Memory is the datasheet's, in MiB.
    {"b200", "B200", 171661, 8.0, 148, kNvlinkUs},
    // NVIDIA H200 datasheet: 141 GB, 4.8 TB/s; 4.50 TB/s measured.
    {"h200", "H200", 143771, 4.8, 132, kNvlinkUs},
    // NVIDIA H100 datasheet: NVL 94 GB at 3.9 TB/s, PCIe 80 GB at 2.0 TB/s, SXM 80 GB at 3.35 TB/s.
    {"h100-nvl", "H100 NVL", 95830, 3.9, 132, kPcieUs},
    {"h100-pcie", "H100 PCIe", 81559, 2.0, 114, kPcieUs},
    {"h100-80gb", "H100", 81559, 3.35, 132, kNvlinkUs},
    // NVIDIA A100 datasheet: SXM 80 GB at 2,039 GB/s; 40 GB at 1,555 GB/s.
    {"a100-80gb", "A100-SXM4-80GB", 81920, 2.039, 108, kNvlinkUs},
    {"a100-pcie-80gb", "A100 80GB PCIe", 81920, 1.935, 108, kPcieUs},
    {"a100-40gb", "A100", 40536, 1.555, 108, kNvlinkUs},
    // NVIDIA L40S, L4, A40 and A10 datasheets; the A10G is Amazon's variant (EC2 G5 page).
    {"l40s", "L40S", 46068, 0.864, 142, kPcieUs},
    {"l40", "L40", 46068, 0.864, 142, kPcieUs},
    {"l4", "L4", 23034, 0.3, 58, kPcieUs},
    {"a40", "NVIDIA A40", 46068, 0.696, 84, kPcieUs},
    {"a10g", "A10G", 23028, 0.6, 80, kPcieUs},
    // GeForce specification pages: 384-bit at 21 and 19.5 Gb/s, 512-bit at 28 Gb/s.
    {"rtx5090", "RTX 5090", 32607, 1.792, 170, kPcieUs},
    {"rtx4090", "RTX 4090", 24564, 1.008, 128, kPcieUs},
    {"rtx3090", "RTX 3090", 24576, 0.936, 82, kPcieUs},
}};

constexpr std::array<std::pair<absl::string_view, absl::string_view>, 2> kAliases = {
    {{"h100", "h100-80gb"}, {"a100", "a100-80gb"}}};

// A CPU rank streams its weights from memory at about this speed, and sums over shared memory; the
// order of magnitude of a server core pair, only used to rank splits of one count.
constexpr double kCpuBandwidth = 1.0e10;
constexpr double kCpuAllReduceUs = 50.0;

GpuFacts FactsOfRow(const Row& row) {
  GpuFacts facts;
  facts.name = std::string(row.name);
  facts.spec = {Device::kCuda, row.sm_count};
  facts.memory_bytes = row.memory_mib * kMiB;
  facts.bandwidth = row.name == "h200" ? 4.50e12 : row.datasheet_tb_s * 1e12 * kReachable;
  facts.all_reduce_us = row.all_reduce_us;
  return facts;
}

}  // namespace

absl::Span<const GpuFacts> KnownGpus() {
  static const auto* const gpus = [] {
    auto* list = new std::vector<GpuFacts>;
    for (const Row& row : kRows) list->push_back(FactsOfRow(row));
    return list;
  }();
  return *gpus;
}

absl::StatusOr<GpuFacts> FindGpu(absl::string_view name) {
  std::string wanted = absl::AsciiStrToLower(name);
  for (const auto& [alias, full] : kAliases)
    if (wanted == alias) wanted = std::string(full);
  std::string names;
  for (const GpuFacts& gpu : KnownGpus()) {
    if (gpu.name == wanted) return gpu;
    absl::StrAppend(&names, names.empty() ? "" : ", ", gpu.name);
  }
  return absl::NotFoundError(absl::StrCat("gpu \"", name, "\": want one of ", names));
}

GpuFacts CpuRank(int64_t memory_bytes) {
  GpuFacts facts;
  facts.name = "cpu";
  facts.spec = {Device::kCpu, 1};
  facts.memory_bytes = memory_bytes;
  facts.bandwidth = kCpuBandwidth;
  facts.all_reduce_us = kCpuAllReduceUs;
  return facts;
}

GpuFacts FactsOf(const RegisteredDevice& device) {
  if (!device.cuda) return CpuRank(device.total_bytes);
  const auto row = std::find_if(kRows.begin(), kRows.end(), [&](const Row& r) {
    return absl::StrContains(device.name, r.driver_name);
  });
  GpuFacts facts = FactsOfRow(row != kRows.end() ? *row : kRows.back());
  if (row == kRows.end()) {
    facts.name = device.name;
    for (const GpuFacts& known : KnownGpus())
      facts.bandwidth = std::min(facts.bandwidth, known.bandwidth);
  }
  facts.spec.sm_count = device.sm_count;
  facts.memory_bytes = device.total_bytes;
  return facts;
}

}  // namespace tessera
