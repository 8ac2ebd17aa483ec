// A small model whose g_idx is no k / group, in every way that layers can differ, and the same
// weights as a dense checkpoint: scales are powers of two, so that both files hold the same
// numbers.
#pragma once

#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "tests/model/quant_checkpoint.h"

namespace tessera::testing {

struct ActOrderCase {
  std::string name;
  // Seed of the order of each layer that has one, by the last part of its name; layers of one seed
  // and width are ordered alike.
  std::map<std::string, uint64_t> seeds;
  std::string dense;  // the last part of a layer that is not quantized
};
std::ostream& operator<<(std::ostream& out, const ActOrderCase& c);

// All cases.
std::vector<ActOrderCase> ActOrderCases();

struct ActOrderModel {
  explicit ActOrderModel(const ActOrderCase& c);
  QuantCheckpoint packed, dense;
};

}  // namespace tessera::testing
