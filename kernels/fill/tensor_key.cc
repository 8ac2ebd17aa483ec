#include "kernels/fill/random_fill.h"

namespace tessera {

// Offset basis and prime: the FNV reference page, isthe.com/chongo/tech/comp/fnv.
uint64_t TensorKey(const char* name, int64_t length) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (int64_t i = 0; i < length; ++i) {
    hash ^= static_cast<uint8_t>(name[i]);
    hash *= 0x100000001b3u;
  }
  return hash;
}

}  // namespace tessera
