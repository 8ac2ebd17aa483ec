#include "coordinator/pool.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

namespace tessera {
namespace {

constexpr int32_t kMaxRanks = 65'536;

}  // namespace

absl::StatusOr<int64_t> Pool::Register(const internal::Register& info,
                                       std::shared_ptr<RankStream> stream, int64_t now_us) {
  if (info.ranks() < 1 || info.ranks() > kMaxRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool of ", info.ranks(), " ranks; from 1 to ", kMaxRanks));
  }
  if (info.rank() < 0 || info.rank() >= info.ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", info.rank(), " of a pool of ", info.ranks()));
  }
  if (!ranks_.empty() && info.ranks() != size()) {
    return absl::InvalidArgumentError(absl::StrCat(Describe(info), ": its pool has ", info.ranks(),
                                                   " ranks, the registered one ", size()));
  }
  if (ranks_.empty()) {
    ++epoch_;
    opened_us_ = now_us;
    ranks_.resize(static_cast<size_t>(info.ranks()));
  }
  std::optional<Rank>& place = ranks_[static_cast<size_t>(info.rank())];
  if (place.has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat(Describe(info), ": registered already by ", Describe(place->info)));
  }
  place = Rank{.info = info, .stream = std::move(stream), .last_heard_us = now_us};
  return epoch_;
}

Rank* Pool::Find(int64_t epoch, int32_t rank) {
  if (epoch != epoch_ || rank < 0 || rank >= size()) return nullptr;
  std::optional<Rank>& place = ranks_[static_cast<size_t>(rank)];
  return place.has_value() ? &*place : nullptr;
}

std::vector<std::shared_ptr<RankStream>> Pool::Dissolve() {
  std::vector<std::shared_ptr<RankStream>> streams;
  for (std::optional<Rank>& rank : ranks_) {
    if (rank.has_value()) streams.push_back(std::move(rank->stream));
  }
  ranks_.clear();
  return streams;
}

int32_t Pool::registered() const {
  return static_cast<int32_t>(std::count_if(ranks_.begin(), ranks_.end(),
                                            [](const auto& rank) { return rank.has_value(); }));
}

std::string Describe(const internal::Register& info) {
  return absl::StrCat("rank ", info.rank(), " (host ", info.host().substr(0, 128), ", pid ",
                      info.pid(), ")");
}

}  // namespace tessera
