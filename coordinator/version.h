// The version this build reports.
#pragma once

namespace tessera {

inline constexpr char kVersion[] = TESSERA_VERSION;

}  // namespace tessera
