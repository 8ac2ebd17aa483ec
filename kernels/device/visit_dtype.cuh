// From a DType to the CUDA type of its elements.
#pragma once

#include <utility>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/dtype.h"

namespace tessera {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>()) with T = __nv_bfloat16 or __half. kUnimplemented: any other dtype;
// `what` starts the message.
template <typename Body>
absl::Status VisitHalf(DType dtype, const char* what, Body&& body) {
  if (dtype == DType::kBf16) return body(TypeTag<__nv_bfloat16>());
  if (dtype == DType::kF16) return body(TypeTag<__half>());
  return absl::UnimplementedError(absl::StrCat(what, ": dtype ", Name(dtype), ", not bf16 or f16"));
}

// The same, with float for kF32.
template <typename Body>
absl::Status VisitFloat(DType dtype, const char* what, Body&& body) {
  if (dtype == DType::kF32) return body(TypeTag<float>());
  return VisitHalf(dtype, what, std::forward<Body>(body));
}

// Rounding to nearest even.
template <typename T>
__device__ __forceinline__ T FromFloat(float value);
template <>
__device__ __forceinline__ float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

}  // namespace tessera
