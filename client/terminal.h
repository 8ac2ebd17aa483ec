// Progress on standard error: a line that is rewritten on a terminal, plain lines elsewhere.
#pragma once

#include <string>

#include <absl/strings/string_view.h>

namespace tessera {

class Progress {
 public:
  Progress();
  ~Progress();  // ends a rewritten line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows `text` until the next one takes its place. Off a terminal, only when `milestone`.
  void Show(absl::string_view text, bool milestone);
  // Shows `text` on a line that stays.
  void Line(absl::string_view text);

 private:
  bool terminal_;
  bool line_open_ = false;
};

}  // namespace tessera
