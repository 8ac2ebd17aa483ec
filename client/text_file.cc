#include "client/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include <absl/cleanup/cleanup.h>
#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/file.h"

namespace tessera {
namespace {

constexpr size_t kReadBytes = 1 << 16;

// All that comes from `fd` until its end.
absl::StatusOr<std::string> ReadStream(int fd, absl::string_view name) {
  std::string text;
  while (true) {
    const size_t have = text.size();
    text.resize(have + kReadBytes);
    ssize_t got = -1;
    do {
      got = ::read(fd, text.data() + have, kReadBytes);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return absl::ErrnoToStatus(errno, name);
    text.resize(have + static_cast<size_t>(got));
    if (got == 0) return text;
    if (static_cast<int64_t>(text.size()) > kMaxTextBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": more than ", kMaxTextBytes, " bytes"));
    }
  }
}

absl::StatusOr<std::string> ReadBytes(const std::string& path) {
  // Not opened again: a socket could not be, and of a file a part may have been read.
  if (path == "-" || path == "/dev/stdin") return ReadStream(STDIN_FILENO, "standard input");
  struct stat info = {};
  const bool stream =
      ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
  if (!stream) return ReadFile(path, kMaxTextBytes);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);  // of a FIFO: waits for its writer
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  const absl::Cleanup close_file = [fd] { ::close(fd); };
  return ReadStream(fd, path);
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

absl::Status CheckUtf8(absl::string_view what, absl::string_view text) {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": byte ", valid, " of ", text.size(), " does not continue UTF-8 text"));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadBytes(path));
  RETURN_IF_ERROR(CheckUtf8(path, text));
  return text;
}

}  // namespace tessera
