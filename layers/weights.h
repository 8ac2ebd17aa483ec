// Pointers to a rank's weights, by the names of model/weight_table.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "common/dtype.h"
#include "kernels/gemm/column_places.h"
#include "kernels/gemm/packed_weight.h"

namespace tessera {

// A [rows, cols] matrix in device memory; a vector is [1, n].
struct Weight {
  const void* data = nullptr;  // null when packed
  int64_t rows = 0, cols = 0;
  DType dtype = DType::kF32;
  PackedWeight packed;  // a quantized matrix: its values are set
  // Where the inputs of a packed matrix lie among its columns; without a list, input j at column j.
  ColumnPlaces places;

  bool ordered() const { return places.places != nullptr; }
  bool empty() const { return data == nullptr && packed.values == nullptr; }
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
