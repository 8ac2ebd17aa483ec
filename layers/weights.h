// Pointers to a rank's weights, by the names of model/weight_table.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "common/dtype.h"

namespace tessera {

// A [rows, cols] matrix in device memory; a vector is [1, n].
struct Weight {
  const void* data = nullptr;
  int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
};

class WeightMap {
 public:
  void Add(const std::string& name, const Weight& weight) { weights_[name] = weight; }
  // kNotFound: no weight of that name.
  absl::StatusOr<Weight> Get(absl::string_view name) const;
  // An empty Weight when there is none: biases, q/k norms.
  Weight GetOptional(absl::string_view name) const;

 private:
  std::map<std::string, Weight, std::less<>> weights_;
};

}  // namespace tessera
