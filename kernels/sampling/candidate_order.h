// The candidates of one row in sampling order (sample_math.h), on the host.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/types/span.h>

namespace tessera {

class CandidateOrder {
 public:
  // `logits`: clean and penalised, one per id. The best one must be above -inf.
  CandidateOrder(absl::Span<const float> logits, float best, float temperature);

  int64_t count() const { return static_cast<int64_t>(packed_.size()); }
  uint64_t total() const { return mass_before_.back(); }

  // Weight of the first `k` candidates, 1 <= k <= count(), and of all that equal the last of them.
  uint64_t MassOfTop(int64_t k);

  // The first candidate at which the running sum of weights reaches `goal`, 1 <= goal <= total().
  struct Place {
    int32_t id;
    uint64_t sum;  // with the candidate itself
  };
  Place Reach(uint64_t goal);

  // Weight of the candidates whose own weight is at least `least`.
  uint64_t MassAtLeast(uint64_t least) const;

 private:
  uint64_t WeightAt(int64_t index) const;
  void SortBin(size_t bin);

  const float best_, temperature_;
  std::vector<uint64_t> packed_;    // grouped by bin, heaviest bin first; sorted within on demand
  std::vector<int64_t> bin_begin_;  // [bins + 1] into packed_
  std::vector<uint64_t> mass_before_;  // [bins + 1]
  std::vector<bool> sorted_;           // [bins]
};

}  // namespace tessera
