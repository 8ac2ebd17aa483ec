#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 8;  // a valid header has 3
constexpr size_t kMaxRank = 16;
constexpr size_t kMaxNameBytes = 1024;

struct FileDType {
  absl::string_view name;
  std::optional<DType> dtype;  // none: valid in a file, not computed with here
};

// Every name the format defines (safetensors/src/tensor.rs).
constexpr std::array<FileDType, 22> kFileDTypes = {{
    {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBf16},
    {"I32", DType::kI32}, {"I64", DType::kI64}, {"I8", DType::kI8},
    {"U8", DType::kU8},   {"BOOL", {}},         {"I16", {}},
    {"U16", {}},          {"U32", {}},          {"U64", {}},
    {"F64", {}},          {"C64", {}},          {"F8_E5M2", {}},
    {"F8_E4M3", {}},      {"F8_E8M0", {}},      {"F8_E4M3FNUZ", {}},
    {"F8_E5M2FNUZ", {}},  {"F6_E2M3", {}},      {"F6_E3M2", {}},
    {"F4", {}},
}};

// A tensor name or other text from the file, for messages.
std::string Quoted(absl::string_view text) { return DescribeJson(json(std::string(text))); }

absl::Status Bad(absl::string_view source, absl::string_view tensor, absl::string_view problem) {
  return absl::DataLossError(absl::StrCat(source, ": tensor ", Quoted(tensor), ": ", problem));
}

// A count or offset. Fractions, exponents, negatives and numbers beyond 63 bits are none.
std::optional<int64_t> ExactSize(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::StatusOr<DType> ParseFileDType(const json& entry, absl::string_view name,
                                     absl::string_view source) {
  const auto field = entry.find("dtype");
  if (field == entry.end() || !field->is_string())
    return Bad(source, name, "dtype is absent or not a string");
  const auto& text = field->get_ref<const std::string&>();
  for (const FileDType& known : kFileDTypes) {
    if (known.name != text) continue;
    if (known.dtype) return *known.dtype;
    return absl::UnimplementedError(
        absl::StrCat(source, ": tensor ", Quoted(name), ": dtype ", text, " is not supported"));
  }
  return Bad(source, name, absl::StrCat("dtype ", Quoted(text), " is none of the format's"));
}

// Fills shape and bytes. The product counts empty dimensions as 1, so that rows() and cols() of an
// empty tensor cannot overflow either.
absl::Status ParseShape(const json& entry, absl::string_view source, TensorEntry& tensor) {
  const auto field = entry.find("shape");
  if (field == entry.end() || !field->is_array())
    return Bad(source, tensor.name, "shape is absent or not an array");
  if (field->size() > kMaxRank) {
    return Bad(source, tensor.name, absl::StrCat("rank ", field->size(), ", at most ", kMaxRank));
  }
  int64_t product = SizeOf(tensor.dtype);
  bool empty = false;
  for (const json& dimension : *field) {
    const std::optional<int64_t> size = ExactSize(dimension);
    if (!size) {
      return Bad(source, tensor.name,
                 absl::StrCat("shape has ", DescribeJson(dimension), ", must be whole numbers"));
    }
    if (__builtin_mul_overflow(product, std::max(*size, int64_t{1}), &product))
      return Bad(source, tensor.name, "the shape's bytes exceed 63 bits");
    empty = empty || *size == 0;
    tensor.shape.push_back(*size);
  }
  tensor.bytes = empty ? 0 : product;
  return absl::OkStatus();
}

// Sets the offset, from the start of the byte buffer.
absl::Status ParseOffsets(const json& entry, absl::string_view source, TensorEntry& tensor) {
  const auto field = entry.find("data_offsets");
  if (field == entry.end() || !field->is_array() || field->size() != 2)
    return Bad(source, tensor.name, "data_offsets is absent or not an array of 2");
  const std::optional<int64_t> begin = ExactSize((*field)[0]);
  const std::optional<int64_t> end = ExactSize((*field)[1]);
  if (!begin || !end || *end < *begin) {
    return Bad(source, tensor.name,
               absl::StrCat("data_offsets are ", DescribeJson((*field)[0]), " and ",
                            DescribeJson((*field)[1]), ", must be whole and in order"));
  }
  if (*end - *begin != tensor.bytes) {
    return Bad(source, tensor.name,
               absl::StrCat("file has ", *end - *begin, " bytes, shape needs ", tensor.bytes));
  }
  tensor.offset = *begin;
  return absl::OkStatus();
}

absl::StatusOr<TensorEntry> ParseTensor(const std::string& name, const json& entry,
                                        absl::string_view source) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return Bad(source, name,
               absl::StrCat("a name of ", name.size(), " bytes, must be 1 to ", kMaxNameBytes));
  }
  if (name.find('\0') != std::string::npos) return Bad(source, name, "NUL in the name");
  if (!entry.is_object()) return Bad(source, name, "is no object");
  TensorEntry tensor;
  tensor.name = name;
  ASSIGN_OR_RETURN(tensor.dtype, ParseFileDType(entry, name, source));
  RETURN_IF_ERROR(ParseShape(entry, source, tensor));
  RETURN_IF_ERROR(ParseOffsets(entry, source, tensor));
  return tensor;
}

absl::Status CheckMetadata(const json& metadata, absl::string_view source) {
  const bool strings =
      metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                          [](const json& value) { return value.is_string(); });
  if (strings) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(source, ": __metadata__ must be an object of strings"));
}

// Sorts by place and checks that the tensors fill the `body_bytes` after the header exactly.
absl::Status CheckCoverage(std::vector<TensorEntry>& tensors, int64_t body_bytes,
                           absl::string_view source) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  int64_t covered = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.offset != covered) {
      return Bad(
          source, tensor.name,
          absl::StrCat("begins at ", tensor.offset, ", the tensors before it end at ", covered));
    }
    if (tensor.bytes > body_bytes - covered) {
      return Bad(source, tensor.name,
                 absl::StrCat("ends after the file, which has ", body_bytes, " bytes of tensors"));
    }
    covered += tensor.bytes;
  }
  if (covered == body_bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(source, ": ", body_bytes,
                                          " bytes after the header, the tensors take ", covered));
}

}  // namespace

absl::StatusOr<int64_t> ParseSafetensorsPrefix(absl::string_view prefix, int64_t file_bytes,
                                               absl::string_view source) {
  if (file_bytes < kSafetensorsPrefixBytes ||
      prefix.size() < static_cast<size_t>(kSafetensorsPrefixBytes)) {
    return absl::DataLossError(
        absl::StrCat(source, ": ", file_bytes, " bytes, too short for a safetensors file"));
  }
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<uint8_t>(prefix[i]);
  if (length > uint64_t{kMaxSafetensorsHeaderBytes}) {
    return absl::DataLossError(absl::StrCat(source, ": a header of ", length, " bytes, at most ",
                                            kMaxSafetensorsHeaderBytes));
  }
  if (static_cast<int64_t>(length) > file_bytes - kSafetensorsPrefixBytes) {
    return absl::DataLossError(
        absl::StrCat(source, ": a header of ", length, " bytes in a file of ", file_bytes));
  }
  return static_cast<int64_t>(length);
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view header,
                                                         int64_t file_bytes,
                                                         absl::string_view source) {
  if (header.empty() || header.front() != '{')
    return absl::DataLossError(absl::StrCat(source, ": the header does not begin with {"));
  ASSIGN_OR_RETURN(const json object,
                   ParseJson(header, absl::StrCat(source, ": header"), kMaxDepth));
  SafetensorsHeader out;
  for (const auto& [name, entry] : object.items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(entry, source));
      for (const auto& [key, value] : entry.items()) out.metadata[key] = value.get<std::string>();
      continue;
    }
    ASSIGN_OR_RETURN(TensorEntry tensor, ParseTensor(name, entry, source));
    out.tensors.push_back(std::move(tensor));
  }
  const int64_t body = kSafetensorsPrefixBytes + static_cast<int64_t>(header.size());
  RETURN_IF_ERROR(CheckCoverage(out.tensors, file_bytes - body, source));
  for (TensorEntry& tensor : out.tensors) tensor.offset += body;
  return out;
}

}  // namespace tessera
