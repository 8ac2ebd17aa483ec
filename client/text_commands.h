// `tessera tokenize` and `tessera detokenize`.
#pragma once

#include "client/command.h"

namespace tessera {

Command TokenizeCommand();
Command DetokenizeCommand();

}  // namespace tessera
