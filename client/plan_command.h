// `tessera plan`: runs here, with no cluster and no weights.
#pragma once

#include "client/command.h"

namespace tessera {

Command PlanCommand();

}  // namespace tessera
