// `tessera generate` and `tessera chat`.
#pragma once

#include "client/command.h"

namespace tessera {

Command GenerateCommand();
Command ChatCommand();

}  // namespace tessera
