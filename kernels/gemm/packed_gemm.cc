#include "kernels/gemm/packed_gemm.h"

#include <algorithm>
#include <type_traits>

#include <absl/strings/str_cat.h>
#include <cuda_runtime_api.h>

#include "common/align.h"
#include "common/status_macros.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/elementwise.h"
#include "kernels/gemm/flag_slots.h"
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
  if (a.gated && (a.bias != nullptr || a.residual != nullptr))
    return absl::InvalidArgumentError("packed_gemm: a gated product with a bias or residual");
  return absl::OkStatus();
}

// The workspace of a product by parts.
struct PartsSpace {
  void* scratch = nullptr;  // the library's
  int64_t scratch_bytes = 0;
  void* expanded = nullptr;
  int64_t expanded_bytes = 0;
};

PartsSpace SplitForParts(const LinearWorkspace& workspace) {
  PartsSpace space = {.scratch = workspace.library,
                      .scratch_bytes = AlignUp(workspace.library_bytes / 8, 256)};
  space.expanded = static_cast<char*>(workspace.library) + space.scratch_bytes;
  space.expanded_bytes = workspace.library_bytes - space.scratch_bytes;
  return space;
}

PackedGemmShape ShapeOf(const LinearArgs& a) {
  return {.bits = a.packed.bits, .t = a.t, .rows = a.packed.n, .k = a.k, .gated = a.gated};
}

template <typename Pointer>
Pointer Column(Pointer base, int64_t first, DType dtype) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return static_cast<Byte*>(base) + first * SizeOf(dtype);
}

// Expands `rows`, and multiplies them into gemm.y. gemm has all but what follows from them.
absl::Status MultiplyRows(const LinearArgs& a, const PartsSpace& space, const PackedRowRuns& rows,
                          GemmArgs gemm, cudaStream_t stream) {
  RETURN_IF_ERROR(LaunchPackedExpand(a.packed, rows, space.expanded, a.dtype, stream));
  gemm.x = a.x;
  gemm.w = space.expanded;
  gemm.t = a.t;
  gemm.n = rows.count();
  gemm.k = a.k;
  gemm.dtype = a.dtype;
  gemm.workspace = space.scratch;
  gemm.workspace_bytes = space.scratch_bytes;
  return CublasLtGemm(gemm, stream);
}

// y holds what is added to when `seeded`.
absl::Status MultiplyParts(const LinearArgs& a, const PartsSpace& space, int64_t part_rows,
                           bool seeded, cudaStream_t stream) {
  for (int64_t first = 0; first < a.n; first += part_rows) {
    GemmArgs gemm = {.y = Column(a.y, first, a.y_dtype), .y_stride = a.n, .y_dtype = a.y_dtype};
    if (seeded) {
      gemm.c = gemm.y;
    } else {
      if (a.bias != nullptr) gemm.bias = Column(a.bias, first, a.dtype);
      if (a.residual != nullptr) gemm.c = Column(a.residual, first, a.dtype);
    }
    const PackedRowRuns rows = {.first = first, .rows = std::min(part_rows, a.n - first)};
    RETURN_IF_ERROR(MultiplyRows(a, space, rows, gemm, stream));
  }
  return absl::OkStatus();
}

// Parts of as many gate rows as up rows, which are gated while L2 holds their products.
absl::Status MultiplyGatedParts(const LinearArgs& a, const PartsSpace& space, int64_t part_rows,
                                void* products, cudaStream_t stream) {
  const int64_t outputs = part_rows / 2;
  for (int64_t first = 0; first < a.n; first += outputs) {
    const int64_t part = std::min(outputs, a.n - first);
    RETURN_IF_ERROR(MultiplyRows(a, space, {.first = first, .rows = part, .runs = 2, .apart = a.n},
                                 {.y = products, .y_dtype = a.dtype}, stream));
    RETURN_IF_ERROR(LaunchSiluMul({.both = products,
                                   .y = Column(a.y, first, a.y_dtype),
                                   .t = a.t,
                                   .n = part,
                                   .y_stride = a.n,
                                   .dtype = a.dtype,
                                   .y_dtype = a.y_dtype},
                                  stream));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LaunchPackedGemmByParts(const LinearArgs& a, const LinearWorkspace& workspace,
                                     cudaStream_t stream) {
  RETURN_IF_ERROR(Check(a));
  const PartsSpace space = SplitForParts(workspace);
  const PackedPartsPlan plan =
      PlanPackedParts(CurrentGpu().sm_count, ShapeOf(a), space.expanded_bytes);
  if (plan.rows <= 0)
    return absl::InvalidArgumentError(absl::StrCat(
        "packed_gemm: workspace of ", workspace.library_bytes, " bytes, needs 16 rows of k=", a.k));
  if (a.gated) return MultiplyGatedParts(a, space, plan.rows, workspace.ungated, stream);
  const bool seeded = a.y_dtype != a.dtype && (a.bias != nullptr || a.residual != nullptr);
  if (seeded)
    RETURN_IF_ERROR(LaunchSeedOutputs({.bias = a.bias,
                                       .residual = a.residual,
                                       .y = static_cast<float*>(a.y),
                                       .t = a.t,
                                       .n = a.n,
                                       .dtype = a.dtype},
                                      stream));
  return MultiplyParts(a, space, plan.rows, seeded, stream);
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
  const PackedGemmPlan plan =
      PlanPackedGemm(std::min(gpu.sm_count, kPackedMaxBlocks), ShapeOf(a), workspace.library_bytes);
  if (a.t >= kPackedPartsMinRows) {
    const PackedPartsPlan parts =
        PlanPackedParts(gpu.sm_count, ShapeOf(a), SplitForParts(workspace).expanded_bytes);
    if (parts.rows > 0 && parts.us < plan.us) return LaunchPackedGemmByParts(a, workspace, stream);
  }
  return LaunchPackedGemmByPlan(a, plan, workspace, stream);
}

}  // namespace tessera
