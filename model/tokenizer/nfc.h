// Unicode Normalization Form C as the `tokenizers` library computes it.
#pragma once

#include <string>

#include <absl/strings/string_view.h>

namespace tessera {

// `text` must be valid UTF-8. Code points younger than Unicode 9 are left as they are
// (IsInertInNfc). Time is O(n log n) whatever the order of the combining marks.
std::string NormalizeNfc(absl::string_view text);

}  // namespace tessera
