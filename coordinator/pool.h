// The ranks of one mpirun, from the first registration to the loss of any of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "coordinator/out_stream.h"
#include "proto/cluster.pb.h"

namespace tessera {

using RankStream = OutStream<internal::WorkerCommand>;

struct Rank {
  internal::Register info;
  std::shared_ptr<RankStream> stream;
  int64_t last_heard_us = 0;  // steady
  int64_t steps = 0;
  int64_t instance = 0;  // of the model it holds, loads or unloads; 0: idle
};

// Not thread-safe: its owner's mutex guards it.
class Pool {
 public:
  // Takes a rank in and returns the pool's epoch; the first one opens the pool and settles its
  // size. kInvalidArgument: another size, or a rank outside it. kAlreadyExists: the rank is there.
  absl::StatusOr<int64_t> Register(const internal::Register& info,
                                   std::shared_ptr<RankStream> stream, int64_t now_us);

  // The member that speaks under `epoch`; null: of an earlier life, or not registered.
  Rank* Find(int64_t epoch, int32_t rank);

  // Forgets every rank and returns their streams. What they still send has a stale epoch.
  std::vector<std::shared_ptr<RankStream>> Dissolve();

  int64_t epoch() const { return epoch_; }
  int32_t size() const { return static_cast<int32_t>(ranks_.size()); }  // as mpirun started it
  int32_t registered() const;
  bool complete() const { return size() > 0 && registered() == size(); }
  int64_t opened_us() const { return opened_us_; }
  // Element r is rank r; nullopt until it registers.
  std::vector<std::optional<Rank>>& ranks() { return ranks_; }
  const std::vector<std::optional<Rank>>& ranks() const { return ranks_; }

 private:
  int64_t epoch_ = 0;  // of the pool there is, or of the last one
  int64_t opened_us_ = 0;
  std::vector<std::optional<Rank>> ranks_;  // empty: no pool
};

// "rank 2 (host gpu-a, pid 71)".
std::string Describe(const internal::Register& info);

}  // namespace tessera
