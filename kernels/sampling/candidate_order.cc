#include "kernels/sampling/candidate_order.h"

#include <algorithm>
#include <functional>

#include "common/check.h"
#include "kernels/sampling/sample_math.h"

namespace tessera {

// A counting sort by bin: most draws look into two or three bins, so only those are ever sorted.
CandidateOrder::CandidateOrder(absl::Span<const float> logits, float best, float temperature)
    : best_(best),
      temperature_(temperature),
      bin_begin_(kWeightBins + 1, 0),
      mass_before_(kWeightBins + 1, 0),
      sorted_(kWeightBins, false) {
  constexpr uint16_t kNoBin = 0xffff;
  std::vector<uint16_t> bin_of(logits.size(), kNoBin);
  for (size_t id = 0; id < logits.size(); ++id) {
    const uint64_t distance = DistanceOf(logits[id], best, temperature);
    const uint64_t weight = WeightOf(distance);
    if (weight == 0) continue;
    const auto bin = static_cast<size_t>(BinOf(distance));
    bin_of[id] = static_cast<uint16_t>(bin);
    ++bin_begin_[bin + 1];
    mass_before_[bin + 1] += weight;
  }
  for (size_t bin = 0; bin < kWeightBins; ++bin) {
    bin_begin_[bin + 1] += bin_begin_[bin];
    mass_before_[bin + 1] += mass_before_[bin];
  }
  packed_.resize(static_cast<size_t>(bin_begin_.back()));
  std::vector<int64_t> next(bin_begin_.begin(), bin_begin_.end() - 1);
  for (size_t id = 0; id < logits.size(); ++id) {
    if (bin_of[id] == kNoBin) continue;
    packed_[static_cast<size_t>(next[bin_of[id]]++)] =
        PackCandidate(logits[id], static_cast<int64_t>(id));
  }
}

uint64_t CandidateOrder::WeightAt(int64_t index) const {
  const float logit = LogitOf(KeyOf(packed_[static_cast<size_t>(index)]));
  return WeightOf(DistanceOf(logit, best_, temperature_));
}

void CandidateOrder::SortBin(size_t bin) {
  if (sorted_[bin]) return;
  std::sort(packed_.begin() + bin_begin_[bin], packed_.begin() + bin_begin_[bin + 1],
            std::greater<>());
  sorted_[bin] = true;
}

uint64_t CandidateOrder::MassOfTop(int64_t k) {
  TESSERA_CHECK(k >= 1 && k <= count(), "k=", k, " of ", count());
  // The bin of the k-th: the first that ends at or after it.
  const auto end = std::lower_bound(bin_begin_.begin() + 1, bin_begin_.end(), k);
  const auto bin = static_cast<size_t>(end - bin_begin_.begin() - 1);
  SortBin(bin);
  const uint32_t last_key = KeyOf(packed_[static_cast<size_t>(k - 1)]);
  uint64_t mass = mass_before_[bin];
  for (int64_t i = bin_begin_[bin]; i < bin_begin_[bin + 1]; ++i)
    if (KeyOf(packed_[static_cast<size_t>(i)]) >= last_key) mass += WeightAt(i);
  return mass;
}

CandidateOrder::Place CandidateOrder::Reach(uint64_t goal) {
  TESSERA_CHECK(goal >= 1 && goal <= total(), "goal=", goal, " of ", total());
  const auto end = std::lower_bound(mass_before_.begin() + 1, mass_before_.end(), goal);
  const auto bin = static_cast<size_t>(end - mass_before_.begin() - 1);
  SortBin(bin);
  int64_t i = bin_begin_[bin];
  uint64_t sum = mass_before_[bin] + WeightAt(i);
  while (sum < goal) sum += WeightAt(++i);
  return {.id = IdOf(packed_[static_cast<size_t>(i)]), .sum = sum};
}

uint64_t CandidateOrder::MassAtLeast(uint64_t least) const {
  uint64_t mass = 0;
  for (int64_t i = 0; i < count(); ++i) {
    const uint64_t weight = WeightAt(i);
    if (weight >= least) mass += weight;
  }
  return mass;
}

}  // namespace tessera
