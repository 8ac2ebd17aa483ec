// The header of one safetensors file: docs/formats.md, "safetensors".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "model/checkpoint.h"

namespace tessera {

// Length of the header's length field.
inline constexpr int64_t kSafetensorsPrefixBytes = 8;
// The format's own limit on a header.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Reads the prefix: the header's length. kDataLoss: beyond the limit or the file's end.
// `prefix` has kSafetensorsPrefixBytes bytes, unless the file is shorter.
absl::StatusOr<int64_t> ParseSafetensorsPrefix(absl::string_view prefix, int64_t file_bytes,
                                               absl::string_view source);

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in file order, `file` 0, offsets from the start of the file
  std::map<std::string, std::string> metadata;
};

// What a header's JSON text says of a file whose whole length is `file_bytes`. `source` names the
// file in errors.
// kDataLoss: not the JSON the format asks for; tensors that overlap, leave gaps or do not end where
// the file ends; a tensor whose bytes differ from its shape's. kUnimplemented: a dtype of the
// format that is none of ours.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view header,
                                                         int64_t file_bytes,
                                                         absl::string_view source);

}  // namespace tessera
