// Which part of a model each rank holds. Pure arithmetic on the config; rank order is tp fastest.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "model/config.h"
#include "model/range.h"

namespace tessera {

// [0, total) in `ranks` contiguous parts of whole `unit`s (the last part takes a partial unit),
// sizes differing by at most one unit, larger parts first; a part may be empty.
Range SplitUnits(int64_t total, int64_t unit, int64_t ranks, int64_t rank);

// [0, total) in parts of one common width (a multiple of `unit`), the last ones shorter or empty:
// the split of a vocabulary, where id / width names the rank.
int64_t EqualWidth(int64_t total, int64_t unit, int64_t ranks);

// tp * pp ranks: rank = stage * tp + tp_rank.
struct ParallelShape {
  int64_t tp = 1, pp = 1;
  int64_t ranks() const { return tp * pp; }
  bool operator==(const ParallelShape&) const = default;
};

// Contiguous layer ranges, one per stage, that minimise the largest stage's weight bytes; the
// embedding counts to the first stage and the head to the last. Needs 1 <= pp <= layers.
std::vector<Range> StageLayers(const ModelConfig& config, int64_t pp);

// One rank's share.
struct Shard {
  ParallelShape shape;
  int64_t tp_rank = 0, stage = 0;
  int64_t unit = 8;         // granularity of uneven splits: 8 on the CPU, 16 on CUDA
  Range layers;             // of the model
  Range heads;              // query heads
  Range kv_heads;           // the kv heads those read; shared with neighbours when tp > kv heads
  Range ffn;                // rows of gate and up of a dense layer
  Range vocab;              // rows of embedding and head
  int64_t vocab_width = 0;  // EqualWidth of the vocabulary
  bool first() const { return stage == 0; }
  bool last() const { return stage == shape.pp - 1; }
};

// kInvalidArgument: tp or pp below 1, rank outside [0, tp * pp), pp above the layers; query heads
// or kv heads that tp does not divide: "7 query heads do not split over 2 ranks".
absl::StatusOr<Shard> MakeShard(const ModelConfig& config, ParallelShape shape, int64_t rank,
                                int64_t unit);

}  // namespace tessera
