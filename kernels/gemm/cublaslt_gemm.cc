#include "kernels/gemm/cublaslt_gemm.h"

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include <absl/strings/str_cat.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"

namespace tessera {
namespace {

absl::Status LtStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusName(status)));
}

cudaDataType_t LtType(DType dtype) {
  return dtype == DType::kF32 ? CUDA_R_32F : dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

int64_t YStride(const GemmArgs& a) { return a.y_stride > 0 ? a.y_stride : a.n; }

// The library is column-major: it sees y^T [n, t] = w [n, k] * x^T [k, t].
struct Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t w, x, y;
};

absl::Status Describe(const GemmArgs& a, int64_t t, Problem& p) {
  const auto n = static_cast<uint64_t>(a.n), k = static_cast<uint64_t>(a.k),
             rows = static_cast<uint64_t>(t);
  RETURN_IF_ERROR(
      LtStatus(cublasLtMatmulDescInit(&p.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "gemm"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  RETURN_IF_ERROR(LtStatus(cublasLtMatmulDescSetAttribute(&p.operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                          &transposed, sizeof(transposed)),
                           "gemm transposition"));
  if (a.bias != nullptr) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    RETURN_IF_ERROR(
        LtStatus(cublasLtMatmulDescSetAttribute(&p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                &epilogue, sizeof(epilogue)),
                 "gemm epilogue"));
    RETURN_IF_ERROR(
        LtStatus(cublasLtMatmulDescSetAttribute(&p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                &a.bias, sizeof(a.bias)),
                 "gemm bias"));
  }
  RETURN_IF_ERROR(
      LtStatus(cublasLtMatrixLayoutInit(&p.w, LtType(a.dtype), k, n, a.k), "gemm w layout"));
  RETURN_IF_ERROR(
      LtStatus(cublasLtMatrixLayoutInit(&p.x, LtType(a.dtype), k, rows, a.k), "gemm x layout"));
  return LtStatus(cublasLtMatrixLayoutInit(&p.y, LtType(a.y_dtype), n, rows, YStride(a)),
                  "gemm y layout");
}

// One device's handle and chosen algorithms; algorithms_ is guarded by mutex_.
class LtDevice {
 public:
  static absl::StatusOr<std::unique_ptr<LtDevice>> Create() {
    auto device = std::unique_ptr<LtDevice>(new LtDevice());
    RETURN_IF_ERROR(LtStatus(cublasLtCreate(&device->handle_), "cuBLASLt handle"));
    return device;
  }

  absl::Status Run(const GemmArgs& a, cudaStream_t stream) {
    Problem problem;
    RETURN_IF_ERROR(Describe(a, a.t, problem));
    ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algorithm, Algorithm(a, problem));
    const float one = 1.f, beta = a.c != nullptr ? 1.f : 0.f;
    const void* c = a.c != nullptr ? a.c : a.y;
    return LtStatus(cublasLtMatmul(handle_, &problem.operation, &one, a.w, &problem.w, a.x,
                                   &problem.x, &beta, c, &problem.y, a.y, &problem.y, &algorithm,
                                   a.workspace, static_cast<size_t>(a.workspace_bytes), stream),
                    "gemm launch");
  }

 private:
  // bias and c present, dtypes, bucket of t or t itself, n, k, y's stride.
  using Key = std::tuple<bool, bool, DType, DType, int64_t, int64_t, int64_t, int64_t>;

  LtDevice() = default;

  absl::StatusOr<cublasLtMatmulAlgo_t> Algorithm(const GemmArgs& a, Problem& exact) {
    const int64_t bucket = GemmRowBucket(a.t);
    const std::lock_guard<std::mutex> lock(mutex_);
    ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t shared, Cached(a, bucket));
    // The bucket's algorithm nearly always serves the rows at hand; the check is host arithmetic.
    cublasLtMatmulHeuristicResult_t result = {};
    if (bucket == a.t ||
        (cublasLtMatmulAlgoCheck(handle_, &exact.operation, &exact.w, &exact.x, &exact.y, &exact.y,
                                 &shared, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= static_cast<size_t>(a.workspace_bytes)))
      return shared;
    return Cached(a, a.t);
  }

  absl::StatusOr<cublasLtMatmulAlgo_t> Cached(const GemmArgs& a, int64_t t) {
    const Key key(a.bias != nullptr, a.c != nullptr, a.dtype, a.y_dtype, t, a.n, a.k, YStride(a));
    const auto found = algorithms_.find(key);
    if (found != algorithms_.end()) return found->second;
    ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algorithm, Ask(a, t));
    return algorithms_.emplace(key, algorithm).first->second;
  }

  absl::StatusOr<cublasLtMatmulAlgo_t> Ask(const GemmArgs& a, int64_t t) {
    Problem problem;
    RETURN_IF_ERROR(Describe(a, t, problem));
    cublasLtMatmulPreferenceOpaque_t preference;
    RETURN_IF_ERROR(LtStatus(cublasLtMatmulPreferenceInit(&preference), "gemm preference"));
    const auto workspace = static_cast<uint64_t>(a.workspace_bytes);
    // Split sums are added in fp32 in a fixed order, outside the output.
    const uint32_t reductions =
        CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t alignment = 16, y_alignment = static_cast<uint32_t>(std::min<int64_t>(
                                       16, SizeOf(a.y_dtype) * (YStride(a) & -YStride(a))));
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      return LtStatus(
          cublasLtMatmulPreferenceSetAttribute(&preference, what, &value, sizeof(value)),
          "gemm preference");
    };
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace));
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions));
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment));
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment));
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment));
    RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment));
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, &problem.operation, &problem.w, &problem.x,
                                       &problem.y, &problem.y, &preference, 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0))
      return absl::UnimplementedError(absl::StrCat("gemm: cuBLASLt has no algorithm for t=", t,
                                                   " n=", a.n, " k=", a.k, " ", Name(a.dtype),
                                                   " to ", Name(a.y_dtype)));
    RETURN_IF_ERROR(LtStatus(status, "gemm heuristics"));
    return result.algo;
  }

  cublasLtHandle_t handle_ = nullptr;  // lives as long as the process
  std::mutex mutex_;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms_;
};

// The current device's; never destroyed, since the driver may be gone when statics are.
absl::StatusOr<LtDevice*> CurrentLtDevice() {
  static auto* mutex = new std::mutex();
  static auto* devices = new std::map<int, std::unique_ptr<LtDevice>>();
  int index = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&index), "current device");
  const std::lock_guard<std::mutex> lock(*mutex);
  std::unique_ptr<LtDevice>& device = (*devices)[index];
  if (device == nullptr) {
    ASSIGN_OR_RETURN(device, LtDevice::Create());
  }
  return device.get();
}

}  // namespace

int64_t GemmRowBucket(int64_t t) {
  if (t <= 16) return t;
  const auto step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(t)) / 4);
  return (t + step - 1) / step * step;
}

absl::Status CublasLtGemm(const GemmArgs& args, cudaStream_t stream) {
  ASSIGN_OR_RETURN(LtDevice* const device, CurrentLtDevice());
  return device->Run(args, stream);
}

}  // namespace tessera
