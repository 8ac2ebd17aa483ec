#include "client/text_file.h"

#include <cstdint>
#include <cstdio>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxTextBytes = 64 << 20;

absl::StatusOr<std::string> ReadStandardInput() {
  std::string text;
  char buffer[1 << 16];
  while (const size_t n = std::fread(buffer, 1, sizeof(buffer), stdin)) {
    text.append(buffer, n);
    if (static_cast<int64_t>(text.size()) > kMaxTextBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("standard input: more than ", kMaxTextBytes, " bytes"));
    }
  }
  if (std::ferror(stdin) != 0) return absl::DataLossError("standard input: read error");
  return text;
}

// Length of the character that starts with `lead`, and the range of its second byte, which alone
// rules out overlong forms, surrogates and code points past U+10FFFF. Length 0: no character.
struct Utf8Lead {
  size_t length;
  uint8_t second_min, second_max;
};
Utf8Lead ClassifyLead(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

size_t ValidUtf8Prefix(absl::string_view text) {
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(text[at]); };
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Lead lead = ClassifyLead(byte(at));
    if (lead.length == 0 || text.size() - at < lead.length) return at;
    for (size_t i = 1; i < lead.length; ++i) {
      const uint8_t min = i == 1 ? lead.second_min : 0x80, max = i == 1 ? lead.second_max : 0xBF;
      if (byte(at + i) < min || byte(at + i) > max) return at;
    }
    at += lead.length;
  }
  return at;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::string text;
  if (path == "-") {
    ASSIGN_OR_RETURN(text, ReadStandardInput());
  } else {
    ASSIGN_OR_RETURN(text, ReadFile(path, kMaxTextBytes));
  }
  const size_t valid = ValidUtf8Prefix(text);
  if (valid < text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": byte ", valid, " of ", text.size(), " does not continue UTF-8 text"));
  }
  return text;
}

}  // namespace tessera
