#include "layers/weights.h"

#include <absl/strings/str_cat.h>

namespace tessera {

absl::StatusOr<Weight> WeightMap::Get(absl::string_view name) const {
  const auto it = weights_.find(name);
  if (it == weights_.end()) return absl::NotFoundError(absl::StrCat("no weight named ", name));
  return it->second;
}

Weight WeightMap::GetOptional(absl::string_view name) const {
  const auto it = weights_.find(name);
  return it == weights_.end() ? Weight{} : it->second;
}

}  // namespace tessera
