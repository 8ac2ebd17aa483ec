// Element types of tensors in memory and in checkpoint files.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

enum class DType : uint8_t { kF32, kF16, kBf16, kI32, kI64, kI8, kU8 };

// Bytes of one element.
constexpr int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16;
}

// "f32", "f16", "bf16", "i32", "i64", "i8", "u8".
absl::string_view Name(DType dtype);

// As config.json spells a float type: "float32", "float16", "bfloat16"; Name() for the others.
absl::string_view LongName(DType dtype);

// Reads a float type as users and config.json spell it: f32/float32, f16/float16, bf16/bfloat16.
// kInvalidArgument: any other text.
absl::StatusOr<DType> ParseFloatDType(absl::string_view text);

}  // namespace tessera
