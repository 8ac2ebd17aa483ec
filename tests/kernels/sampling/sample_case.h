// One call of Sample on either device, from plain host values.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "common/status_macros.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_config.h"
#include "tests/support/op_fixture.h"

namespace tessera::testing {

struct SampleCase {
  int64_t vocab = 0;
  std::vector<float> logits;           // [rows, vocab]
  std::vector<SamplingParams> params;  // [slots]
  std::vector<int32_t> seq_slot, draw_index;
  std::vector<uint16_t> seen;  // [slots, vocab], or empty
  bool all_greedy = false, any_logprobs = false;
  int64_t shards = 1;
  int64_t spare_rows = 0;    // row_capacity beyond the rows
  float padding = INFINITY;  // value of ids past the vocabulary: must never win

  int64_t rows() const { return static_cast<int64_t>(seq_slot.size()); }
};

// One request a row, slots in row order, all with the same parameters.
inline SampleCase OneSlotPerRow(int64_t vocab, std::vector<float> logits,
                                const SamplingParams& params) {
  SampleCase c;
  c.vocab = vocab;
  const auto rows = static_cast<size_t>(static_cast<int64_t>(logits.size()) / vocab);
  c.logits = std::move(logits);
  c.params.assign(rows, params);
  c.draw_index.assign(rows, 0);
  for (size_t i = 0; i < rows; ++i) c.seq_slot.push_back(static_cast<int32_t>(i));
  return c;
}

// `draws` draws of one request from one row.
inline SampleCase Draws(const std::vector<float>& row, const SamplingParams& params, int draws) {
  SampleCase c;
  c.vocab = static_cast<int64_t>(row.size());
  c.params = {params};
  for (int i = 0; i < draws; ++i) {
    c.logits.insert(c.logits.end(), row.begin(), row.end());
    c.seq_slot.push_back(0);
    c.draw_index.push_back(i);
  }
  return c;
}

struct SampleResult {
  std::vector<int32_t> ids, top_ids;
  std::vector<float> logprobs, top_logprobs;
};

inline int64_t ShardWidth(const SampleCase& c) {
  return ((c.vocab + c.shards - 1) / c.shards + 7) / 8 * 8;
}

// The logits as LogitsView lays them out.
inline std::vector<float> ShardedLogits(const SampleCase& c) {
  const int64_t width = ShardWidth(c), capacity = c.rows() + c.spare_rows;
  std::vector<float> out(static_cast<size_t>(c.shards * capacity * width), c.padding);
  for (int64_t row = 0; row < c.rows(); ++row)
    for (int64_t id = 0; id < c.vocab; ++id)
      out[static_cast<size_t>(((id / width) * capacity + row) * width + id % width)] =
          c.logits[static_cast<size_t>(row * c.vocab + id)];
  return out;
}

inline absl::StatusOr<SampleResult> RunSample(const OpDevice& on, const SampleCase& c) {
  const int64_t rows = c.rows();
  const auto logits = on.Upload(ShardedLogits(c));
  const auto seq_slot = on.Upload(c.seq_slot), draw_index = on.Upload(c.draw_index);
  const auto params = on.Upload(c.params);
  const auto seen = on.Upload(c.seen);
  const auto ids = on.Output<int32_t>(rows), top_ids = on.Output<int32_t>(rows * kMaxTopLogprobs);
  const auto logprobs = on.Output<float>(rows), top = on.Output<float>(rows * kMaxTopLogprobs);
  const auto workspace = on.Workspace(SampleWorkspaceBytes(on.device(), rows, c.vocab));
  SampleArgs args;
  args.logits = {.data = logits.data(),
                 .rows = rows,
                 .row_capacity = rows + c.spare_rows,
                 .vocab = c.vocab,
                 .width = ShardWidth(c)};
  args.seq_slot = seq_slot.data();
  args.draw_index = draw_index.data();
  args.params = params.data();
  if (!c.seen.empty())
    args.seen = {
        .table = seen.data(), .slots = static_cast<int64_t>(c.params.size()), .vocab = c.vocab};
  args.ids = ids.data();
  args.logprobs = logprobs.data();
  args.top_ids = top_ids.data();
  args.top_logprobs = top.data();
  args.all_greedy = c.all_greedy;
  args.any_logprobs = c.any_logprobs;
  args.workspace = workspace.data();
  args.workspace_bytes = workspace.bytes();
  RETURN_IF_ERROR(on.device() == Device::kCpu ? SampleCpu(args, on.stream()) : [&] {
#ifdef TESSERA_WITH_CUDA
    return SampleCuda(args, on.stream());
#else
                                                  return absl::UnimplementedError("no CUDA");
#endif
  }());
  RETURN_IF_ERROR(on.Sync());
  return SampleResult{ids.Read(), top_ids.Read(), logprobs.Read(), top.Read()};
}

}  // namespace tessera::testing
