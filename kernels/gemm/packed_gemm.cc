#include "kernels/gemm/packed_gemm.h"

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>

#include <absl/strings/str_cat.h>
#include <cuda_runtime_api.h>

#include "common/align.h"
#include "common/status_macros.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/elementwise.h"
#include "kernels/gemm/packed_expand.h"
#include "kernels/gemm/packed_gemm_sm90.h"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
namespace {

int64_t RowsOfW(const LinearArgs& a) { return (a.gated ? 2 : 1) * a.n; }

bool GroupingServed(const PackedWeight& w) {
  if (w.groups < 1) return false;
  if (w.group_of_step != nullptr || w.group >= w.k) return true;
  return w.group == 32 || w.group == 64 || (w.group > 0 && w.group % 128 == 0);
}

absl::Status Check(const LinearArgs& a) {
  const PackedWeight& w = a.packed;
  if ((w.bits != 4 && w.bits != 8) || w.n != RowsOfW(a) || w.k != a.k || w.n % 8 != 0 ||
      w.k % kPackedStep != 0 || w.k <= 0 || !GroupingServed(w))
    return absl::InvalidArgumentError(
        absl::StrCat("packed_gemm: weight of ", w.bits, " bits, [", w.n, ", ", w.k, "] in ",
                     w.groups, " groups of ", w.group, ", product [", RowsOfW(a), ", ", a.k, "]"));
  return absl::OkStatus();
}

// Flags go with workspaces: launches that may run at once have workspaces of their own. The last
// kPackedFlagSlots workspaces keep theirs.
int FlagSlotOf(const void* workspace) {
  static std::mutex mutex;
  static std::array<const void*, kPackedFlagSlots> owners = {};
  static int next = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* const found = std::find(owners.begin(), owners.end(), workspace);
  if (found != owners.end()) return static_cast<int>(found - owners.begin());
  const int slot = next;
  next = (next + 1) % kPackedFlagSlots;
  owners[static_cast<size_t>(slot)] = workspace;
  return slot;
}

// Rows of W of a part, at most `most`: the library's tiles of a part (128 rows by 256 tokens, which
// is what it mostly takes) fill rounds of multiprocessors, and parts are few, since each has two
// launches. In eights.
int64_t RowsOfPart(int64_t rows, int64_t t, int64_t most, int sm_count) {
  constexpr int64_t kTileRows = 128, kTileTokens = 256;
  if (rows <= most || most < kTileRows) return std::min(rows, most / 8 * 8);
  constexpr double kLaunchRounds = 0.1;  // a part's launches, in rounds of tiles
  const int64_t token_tiles = CeilDiv(t, kTileTokens);
  int64_t best = 0;
  double best_rounds = std::numeric_limits<double>::infinity();
  for (int64_t part = kTileRows; part <= most; part += kTileRows) {
    const auto each = [&](int64_t count) {
      return static_cast<double>(
          CeilDiv(CeilDiv(count, kTileRows) * token_tiles, static_cast<int64_t>(sm_count)));
    };
    const auto whole = static_cast<double>(rows / part);
    const int64_t rest = rows % part;
    const double rounds =
        whole * (each(part) + kLaunchRounds) + (rest == 0 ? 0. : each(rest) + kLaunchRounds);
    if (rounds >= best_rounds) continue;
    best = part;
    best_rounds = rounds;
  }
  return best;
}

// A part of the rows of W: expanded, then multiplied into its columns of y.
struct PartsPlan {
  char* expanded = nullptr;
  int64_t rows = 0;  // of a part
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

absl::StatusOr<PartsPlan> PlanParts(const LinearArgs& a, const LinearWorkspace& workspace) {
  constexpr int64_t kHalfBytes = 2;
  PartsPlan plan;
  plan.scratch_bytes = workspace.library_bytes / 8;
  plan.scratch = workspace.library;
  plan.expanded = static_cast<char*>(workspace.library) + plan.scratch_bytes;
  const int64_t fit = (workspace.library_bytes - plan.scratch_bytes) / (a.k * kHalfBytes);
  plan.rows = RowsOfPart(RowsOfW(a), a.t, fit, CurrentGpu().sm_count);
  if (plan.rows <= 0)
    return absl::InvalidArgumentError(absl::StrCat(
        "packed_gemm: workspace of ", workspace.library_bytes, " bytes, needs 8 rows of k=", a.k));
  return plan;
}

// [t, rows of W] of y_dtype. `seeded`: y holds what is added to.
absl::Status MultiplyParts(const LinearArgs& a, const PartsPlan& plan, void* y, DType y_dtype,
                           bool seeded, cudaStream_t stream) {
  const int64_t rows = RowsOfW(a);
  const auto column = [](const void* base, int64_t first, DType dtype) {
    return const_cast<char*>(static_cast<const char*>(base)) + first * SizeOf(dtype);
  };
  for (int64_t first = 0; first < rows; first += plan.rows) {
    const int64_t part = std::min(plan.rows, rows - first);
    RETURN_IF_ERROR(LaunchPackedExpand(a.packed, first, part, plan.expanded, a.dtype, stream));
    GemmArgs gemm = {.x = a.x,
                     .w = plan.expanded,
                     .y = column(y, first, y_dtype),
                     .t = a.t,
                     .n = part,
                     .k = a.k,
                     .y_stride = rows,
                     .dtype = a.dtype,
                     .y_dtype = y_dtype,
                     .workspace = plan.scratch,
                     .workspace_bytes = plan.scratch_bytes};
    if (seeded) {
      gemm.c = gemm.y;
    } else if (!a.gated) {
      if (a.bias != nullptr) gemm.bias = column(a.bias, first, a.dtype);
      if (a.residual != nullptr) gemm.c = column(a.residual, first, a.dtype);
    }
    RETURN_IF_ERROR(CublasLtGemm(gemm, stream));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LaunchPackedGemmByParts(const LinearArgs& a, const LinearWorkspace& workspace,
                                     cudaStream_t stream) {
  RETURN_IF_ERROR(Check(a));
  ASSIGN_OR_RETURN(const PartsPlan plan, PlanParts(a, workspace));
  if (a.gated) {
    RETURN_IF_ERROR(MultiplyParts(a, plan, workspace.ungated, a.dtype, false, stream));
    return LaunchSiluMul({.both = workspace.ungated,
                          .y = a.y,
                          .t = a.t,
                          .n = a.n,
                          .dtype = a.dtype,
                          .y_dtype = a.y_dtype},
                         stream);
  }
  const bool seeded = a.y_dtype != a.dtype && (a.bias != nullptr || a.residual != nullptr);
  if (seeded)
    RETURN_IF_ERROR(LaunchSeedOutputs({.bias = a.bias,
                                       .residual = a.residual,
                                       .y = static_cast<float*>(a.y),
                                       .t = a.t,
                                       .n = a.n,
                                       .dtype = a.dtype},
                                      stream));
  return MultiplyParts(a, plan, a.y, a.y_dtype, seeded, stream);
}

absl::Status LaunchPackedGemmByPlan(const LinearArgs& a, const PackedGemmPlan& plan,
                                    const LinearWorkspace& workspace, cudaStream_t stream) {
  RETURN_IF_ERROR(Check(a));
  if (plan.scratch_bytes() > workspace.library_bytes)
    return absl::InvalidArgumentError(absl::StrCat("packed_gemm: workspace of ",
                                                   workspace.library_bytes, " bytes, needs ",
                                                   plan.scratch_bytes()));
  const PackedScratch scratch = {.partial = static_cast<float*>(workspace.library),
                                 .flag_slot = FlagSlotOf(workspace.library)};
  return a.packed.bits == 4 ? LaunchPackedGemm4Sm90(a, plan, scratch, stream)
                            : LaunchPackedGemm8Sm90(a, plan, scratch, stream);
}

absl::Status LaunchPackedGemm(const LinearArgs& a, const LinearWorkspace& workspace,
                              cudaStream_t stream) {
  RETURN_IF_ERROR(Check(a));
  const GpuIdentity& gpu = CurrentGpu();
  if (!gpu.is_sm90() || a.n % 8 != 0) return LaunchPackedGemmByParts(a, workspace, stream);
  const PackedGemmPlan plan = PlanPackedGemm(
      std::min(gpu.sm_count, kPackedMaxBlocks),
      {.bits = a.packed.bits, .t = a.t, .rows = a.packed.n, .k = a.k}, workspace.library_bytes);
  return LaunchPackedGemmByPlan(a, plan, workspace, stream);
}

}  // namespace tessera
