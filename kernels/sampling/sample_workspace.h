// How the CUDA sampling kernels divide their scratch. Pure host functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/sampling/sample_math.h"

namespace tessera {

// A row is scanned in chunks of this many ids, whatever the batch: the order of the fp32 sums in a
// log-probability must not depend on the other rows.
inline constexpr int64_t kSampleChunk = 8192;

constexpr int64_t SampleChunks(int64_t vocab) { return (vocab + kSampleChunk - 1) / kSampleChunk; }

// Byte offsets from the workspace's start, each a multiple of 256.
struct SampleWorkspace {
  int64_t best;        // uint64 [rows, chunks]: packed best penalised candidate
  int64_t top;         // uint64 [rows, chunks, kMaxTopLogprobs]: packed, unpenalised; 0: none
  int64_t raw_best;    // float [rows, chunks]: largest logit
  int64_t raw_sum;     // float [rows, chunks]: sum of exp(logit - largest)
  int64_t bin_mass;    // uint64 [rows, kWeightBins]
  int64_t bin_count;   // uint32 [rows, kWeightBins]
  int64_t min_p_mass;  // uint64 [rows]: weight of the candidates that min-p keeps
  int64_t bytes;       // of all

  static constexpr SampleWorkspace Layout(int64_t rows, int64_t vocab) {
    const int64_t parts = rows * SampleChunks(vocab);
    SampleWorkspace w = {};
    int64_t next = 0;
    const auto take = [&next](int64_t bytes) {
      const int64_t at = next;
      next += (bytes + 255) / 256 * 256;
      return at;
    };
    w.best = take(parts * 8);
    w.top = take(parts * kMaxTopLogprobs * 8);
    w.raw_best = take(parts * 4);
    w.raw_sum = take(parts * 4);
    w.bin_mass = take(rows * kWeightBins * 8);
    w.bin_count = take(rows * kWeightBins * 4);
    w.min_p_mass = take(rows * 8);
    w.bytes = next;
    return w;
  }
};

}  // namespace tessera
