#include "client/terminal.h"

#include <unistd.h>

#include <cstdio>

#include <absl/strings/str_cat.h>

namespace tessera {

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (line_open_) std::fputc('\n', stderr);
}

void Progress::Show(absl::string_view text, bool milestone) {
  if (!terminal_ && !milestone) return;
  // "\033[K" erases what a longer line before left behind.
  const std::string line =
      terminal_ ? absl::StrCat("\r", text, "\033[K") : absl::StrCat(text, "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  line_open_ = terminal_;
}

void Progress::Line(absl::string_view text) {
  Show(text, /*milestone=*/true);
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

}  // namespace tessera
