#include "common/check.h"

#include <cstdio>
#include <cstdlib>

namespace tessera::internal {

void CheckFails(const char* file, int line, const char* expression, const std::string& values) {
  std::fprintf(stderr, "%s:%d: CHECK %s %s\n", file, line, expression, values.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace tessera::internal
