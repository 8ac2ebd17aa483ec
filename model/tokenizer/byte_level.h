// The byte-to-character alphabet of byte-level BPE (GPT-2): every byte is written as one printable
// character, so that a vocabulary can be text. Bytes 21-7E, A1-AC and AE-FF stand for themselves;
// the other 68, ascending, are U+0100, U+0101, ... (a space is U+0120).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/strings/string_view.h>

namespace tessera {

// `bytes` written in the alphabet, as UTF-8.
std::string ToByteLevel(absl::string_view bytes);

// The bytes that `text` (valid UTF-8) stands for; nullopt when it has a character outside the
// alphabet.
std::optional<std::string> FromByteLevel(absl::string_view text);

}  // namespace tessera
