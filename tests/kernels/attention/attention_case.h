// Random paged-attention steps, and what they should give, for the tests of both back ends.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"
#include "kernels/attention/paged_attention.h"
#include "tests/support/op_fixture.h"

namespace tessera::testing {

struct AttentionShape {
  int64_t h = 4, g = 2, e = 64;
  int64_t block_size = 16;
  DType dtype = DType::kF32;
  float q_stddev = 1.f;  // larger: peaked softmax
  bool norm = false;     // of q and k heads
  float rope_scale = 1.f;
};

// The last `rows` tokens of a context of `context` tokens ask.
struct AttentionSequence {
  int64_t rows = 1;
  int64_t context = 1;
  bool padding = false;
};

// Blocks are dealt in random order; cached tokens that no row may see, and table entries past a
// sequence's blocks, are NaN and far out of range. A sequence's data depends on `seed` and its
// position in the list only. The first one-row sequences are the decode part: their rows are in
// `qkv`, raw, and in q and the caches as they should become.
struct AttentionCase {
  AttentionShape shape;
  std::vector<AttentionSequence> sequences;
  std::vector<float> q, k_cache, v_cache;
  std::vector<float> qkv, inv_freq, q_norm, k_norm;
  std::vector<int32_t> block_table, seq_slot, q_start, context, positions;
  std::vector<int64_t> kv_index;  // of decode rows
  int64_t t = 0, blocks = 0, max_blocks = 0, decode_sequences = 0;
  int64_t extra_rows = 0;   // rows after the last sequence's
  int64_t max_context = 0;  // the host bound given to the op; 0: the largest context
  CacheReads reads = CacheReads::kInOrder;
  bool ordered = false;  // the op writes its columns in an order of their own
};

// `shuffle_seed` deals other blocks and slots to the same data.
AttentionCase MakeAttentionCase(const AttentionShape& shape,
                                const std::vector<AttentionSequence>& sequences, uint64_t seed = 1,
                                uint64_t shuffle_seed = 1);

struct AttentionReference {
  std::vector<double> out;        // [t, h, e]
  std::vector<double> magnitude;  // sum of |p v|: what rounding errors scale with
};
// In double precision, from the rounded inputs. Rows of no sequence are 0.
AttentionReference ReferenceAttention(const AttentionCase& c);

// Every key 0.25 and every value 0.5, those of new tokens too, which are not written.
void MakeUniform(AttentionCase& c);

// Runs the op of `on`'s device into a poisoned, guarded output. The cache starts with NaN for the
// new tokens of decode rows; expects it to end as the case has it, and nothing else to change. Of
// an ordered output, expects zeros where no column is, and gives the rows back in column order.
std::vector<float> RunAttention(const OpDevice& on, const AttentionCase& c);

// Expects |out - reference| <= relative * magnitude + 1e-6 everywhere; reports the worst.
void ExpectNear(const std::vector<float>& out, const AttentionReference& reference,
                double relative);

}  // namespace tessera::testing
