// Commands about the cluster's models and state.
#pragma once

#include "client/command.h"

namespace tessera {

Command LoadCommand();
Command UnloadCommand();
Command ModelsCommand();
Command StatusCommand();
Command DrainCommand();

}  // namespace tessera
