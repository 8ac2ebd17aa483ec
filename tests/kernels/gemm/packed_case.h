// Random linear layers with packed weights: the arrays a kernel reads, and the same layer unpacked
// for the double-precision reference.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/gemm/packed_weight.h"
#include "tests/kernels/gemm/linear_reference.h"

namespace tessera {

struct PackedCase {
  LinearCase linear;  // its weight_dtype is not used
  int bits = 4;
  int64_t group = 128;
  bool zeros = false;   // zero points of their own
  bool ragged = false;  // each step of 16 j has a group drawn at random, of `groups` there are
  int64_t groups = 0;   // with ragged only
};

struct PackedInputs {
  PackedCase shape;
  LinearInputs linear;  // w is the unpacked weight, exact
  std::vector<uint8_t> values, zeros;
  std::vector<uint16_t> scales, group_of_step;

  // Names these arrays; another device's take their place there.
  PackedWeight weight() const;
};

// Packs by PackedPlaceOf() alone.
PackedInputs RandomPacked(const PackedCase& shape, uint32_t seed);

}  // namespace tessera
