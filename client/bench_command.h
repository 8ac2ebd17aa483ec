// `tessera bench speed`.
#pragma once

#include "client/command.h"

namespace tessera {

Command BenchCommand();

}  // namespace tessera
