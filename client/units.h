// Bytes in the units that people read.
#pragma once

#include <cstdint>

namespace tessera {

inline double MiB(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 20); }
inline double GiB(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

}  // namespace tessera
