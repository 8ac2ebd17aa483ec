// The commit a program was built from.
#pragma once

namespace tessera {

// Twelve digits, "-dirty" behind them when files that git tracks were changed; "unknown" for a
// source tree without git. Written by cmake/BuildCommit.cmake, so that a commit recompiles one
// file.
const char* BuildCommit();

}  // namespace tessera
