#include "common/dtype.h"

#include <absl/strings/str_cat.h>

namespace tessera {

absl::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBf16:
      return "bf16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
  }
  return "unknown";
}

absl::string_view LongName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBf16:
      return "bfloat16";
    default:
      return Name(dtype);
  }
}

absl::StatusOr<DType> ParseFloatDType(absl::string_view text) {
  if (text == "f32" || text == "float32") return DType::kF32;
  if (text == "f16" || text == "float16") return DType::kF16;
  if (text == "bf16" || text == "bfloat16") return DType::kBf16;
  return absl::InvalidArgumentError(
      absl::StrCat("dtype \"", text, "\": want float32, float16 or bfloat16"));
}

}  // namespace tessera
