#include "worker/convert.h"

#include <cstring>

#include "common/check.h"
#include "common/float16.h"

namespace tessera {
namespace {

template <typename Read, typename Write, typename Src, typename Dst>
void Convert(const Src* src, Dst* dst, int64_t count, Read read, Write write) {
  for (int64_t i = 0; i < count; ++i) dst[i] = write(read(src[i]));
}

template <typename Read, typename Src>
void ConvertFrom(const Src* src, void* dst, DType dst_dtype, int64_t count, Read read) {
  switch (dst_dtype) {
    case DType::kF32:
      return Convert(src, static_cast<float*>(dst), count, read, [](float v) { return v; });
    case DType::kF16:
      return Convert(src, static_cast<uint16_t*>(dst), count, read, FloatToF16);
    case DType::kBf16:
      return Convert(src, static_cast<uint16_t*>(dst), count, read, FloatToBf16);
    default:
      TESSERA_CHECK(false, "not a float type: ", Name(dst_dtype));
  }
}

}  // namespace

void ConvertFloats(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count) {
  if (src_dtype == dst_dtype) {
    if (src != dst) std::memcpy(dst, src, static_cast<size_t>(count * SizeOf(src_dtype)));
    return;
  }
  switch (src_dtype) {
    case DType::kF32:
      return ConvertFrom(static_cast<const float*>(src), dst, dst_dtype, count,
                         [](float v) { return v; });
    case DType::kF16:
      return ConvertFrom(static_cast<const uint16_t*>(src), dst, dst_dtype, count, F16ToFloat);
    case DType::kBf16:
      return ConvertFrom(static_cast<const uint16_t*>(src), dst, dst_dtype, count, Bf16ToFloat);
    default:
      TESSERA_CHECK(false, "not a float type: ", Name(src_dtype));
  }
}

}  // namespace tessera
