#include "tests/kernels/attention/attention_case.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/attention/paged_attention_config.h"
#include "tests/kernels/rope/rope_case.h"
#include "tests/support/column_order.h"

namespace tessera::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kSpareBlocks = 3, kSpareSlots = 2;
constexpr double kTheta = 1e6;

std::vector<int64_t> Shuffled(int64_t n, SeededRandom& random) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.Below(i + 1))]);
  return order;
}

size_t CacheAt(const AttentionCase& c, int64_t block, int64_t head, int64_t offset) {
  const AttentionShape& s = c.shape;
  return static_cast<size_t>(((block * s.g + head) * s.block_size + offset) * s.e);
}

// Where token `token` of sequence `i`, kv head `head` lies, through the block table.
size_t TokenAt(const AttentionCase& c, size_t i, int64_t head, int64_t token) {
  const int64_t entry = c.seq_slot[i] * c.max_blocks + token / c.shape.block_size;
  const auto block =
      std::clamp<int64_t>(c.block_table[static_cast<size_t>(entry)], 0, c.blocks - 1);
  return CacheAt(c, block, head, token % c.shape.block_size);
}

void AppendRounded(DType dtype, const std::vector<float>& values, std::vector<float>& to) {
  const std::vector<float> rounded = RoundedTo(dtype, values);
  to.insert(to.end(), rounded.begin(), rounded.end());
}

// A raw head as the op should turn it.
std::vector<float> Turned(const AttentionCase& c, const float* head, const std::vector<float>& norm,
                          int32_t position) {
  const std::vector<double> turned =
      NormAndRotate({c.inv_freq, c.shape.rope_scale}, head, norm, position);
  return RoundedTo(c.shape.dtype, {turned.begin(), turned.end()});
}

// The row of decode sequence `i`, and what becomes of it.
void FillNewToken(AttentionCase& c, size_t i, SeededRandom& random) {
  const AttentionShape& s = c.shape;
  const auto e = static_cast<size_t>(s.e);
  const size_t row = c.qkv.size();
  AppendRounded(s.dtype, random.Normal(s.h * s.e, s.q_stddev), c.qkv);
  AppendRounded(s.dtype, random.Normal(s.g * s.e, 1.f), c.qkv);
  AppendRounded(s.dtype, random.Uniform(s.g * s.e, -1.f, 1.f), c.qkv);
  const int32_t position = c.context[i] - 1;
  c.positions.push_back(position);
  for (size_t head = 0; head < static_cast<size_t>(s.h); ++head) {
    const std::vector<float> q = Turned(c, &c.qkv[row + head * e], c.q_norm, position);
    c.q.insert(c.q.end(), q.begin(), q.end());
  }
  c.kv_index.push_back(-1);
  if (c.sequences[i].padding) return;
  c.kv_index.back() =
      static_cast<int64_t>(TokenAt(c, i, 0, position)) / (s.e * s.block_size * s.g) * s.block_size +
      position % s.block_size;
  const float* keys = &c.qkv[row + static_cast<size_t>(s.h) * e];
  const float* values = keys + static_cast<size_t>(s.g) * e;
  for (int64_t head = 0; head < s.g; ++head) {
    const size_t at = TokenAt(c, i, head, position);
    const std::vector<float> k = Turned(c, keys + head * s.e, c.k_norm, position);
    std::copy(k.begin(), k.end(), &c.k_cache[at]);
    std::copy_n(values + head * s.e, s.e, &c.v_cache[at]);
  }
}

void FillSequence(AttentionCase& c, size_t i, uint64_t seed) {
  const AttentionShape& s = c.shape;
  SeededRandom random(seed * 1000003 + i);
  const bool decode = static_cast<int64_t>(i) < c.decode_sequences;
  if (decode)
    FillNewToken(c, i, random);
  else
    AppendRounded(s.dtype, random.Normal(c.sequences[i].rows * s.h * s.e, s.q_stddev), c.q);
  if (c.sequences[i].padding) return;
  for (int64_t token = 0; token < c.sequences[i].context - (decode ? 1 : 0); ++token)
    for (int64_t head = 0; head < s.g; ++head) {
      const size_t at = TokenAt(c, i, head, token);
      const std::vector<float> k = RoundedTo(s.dtype, random.Normal(s.e, 1.f));
      const std::vector<float> v = RoundedTo(s.dtype, random.Uniform(s.e, -1.f, 1.f));
      std::copy(k.begin(), k.end(), &c.k_cache[at]);
      std::copy(v.begin(), v.end(), &c.v_cache[at]);
    }
}

// `cache` without the new tokens of decode rows.
std::vector<float> BeforeTheStep(const AttentionCase& c, std::vector<float> cache) {
  const AttentionShape& s = c.shape;
  for (int64_t index : c.kv_index)
    for (int64_t head = 0; index >= 0 && head < s.g; ++head)
      std::fill_n(&cache[CacheAt(c, index / s.block_size, head, index % s.block_size)], s.e, kNan);
  return cache;
}

// New keys may differ by a unit in the last place, where fp32 roundings tip theirs.
void ExpectCache(const AttentionCase& c, const std::vector<float>& got,
                 const std::vector<float>& want, bool exact) {
  const double relative = exact                           ? 0
                          : c.shape.dtype == DType::kF32  ? 1e-6
                          : c.shape.dtype == DType::kBf16 ? 0x1p-7
                                                          : 0x1p-10;
  ExpectNear(got, want, relative, exact ? 0 : 4e-6);
}

std::vector<float> InColumnOrder(const std::vector<float>& out, const ColumnOrder& order) {
  const size_t columns = order.places.size(), width = order.source.size();
  std::vector<float> rows(out.size() / width * columns, kNan);
  for (size_t i = 0; i < out.size(); ++i) {
    const int32_t column = order.source[i % width];
    if (column < 0)
      EXPECT_EQ(out[i], 0.f) << "place " << i % width << " of row " << i / width;
    else
      rows[i / width * columns + static_cast<size_t>(column)] = out[i];
  }
  return rows;
}

void DealBlocks(AttentionCase& c, uint64_t shuffle_seed) {
  SeededRandom random(shuffle_seed);
  const auto count = static_cast<int64_t>(c.sequences.size());
  int64_t used = 0;
  for (const AttentionSequence& sequence : c.sequences) {
    const int64_t blocks = (sequence.context + c.shape.block_size - 1) / c.shape.block_size;
    used += blocks;
    c.max_blocks = std::max(c.max_blocks, blocks);
    c.max_context = std::max(c.max_context, sequence.context);
  }
  c.max_blocks += 1;
  c.blocks = used + kSpareBlocks;
  const std::vector<int64_t> blocks = Shuffled(c.blocks, random);
  const std::vector<int64_t> slots = Shuffled(count + kSpareSlots, random);
  c.block_table.resize(static_cast<size_t>((count + kSpareSlots) * c.max_blocks));
  for (size_t i = 0; i < c.block_table.size(); ++i)
    c.block_table[i] = i % 2 == 0 ? -7 : std::numeric_limits<int32_t>::max();
  size_t next = 0;
  for (size_t i = 0; i < c.sequences.size(); ++i) {
    const AttentionSequence& sequence = c.sequences[i];
    c.seq_slot.push_back(sequence.padding ? -1 : static_cast<int32_t>(slots[i]));
    c.context.push_back(static_cast<int32_t>(sequence.context));
    c.q_start.push_back(static_cast<int32_t>(c.t));
    c.t += sequence.rows;
    if (sequence.padding) continue;
    for (int64_t j = 0; j * c.shape.block_size < sequence.context; ++j)
      c.block_table[static_cast<size_t>(slots[i] * c.max_blocks + j)] =
          static_cast<int32_t>(blocks[next++]);
  }
  c.q_start.push_back(static_cast<int32_t>(c.t));
}

}  // namespace

AttentionCase MakeAttentionCase(const AttentionShape& shape,
                                const std::vector<AttentionSequence>& sequences, uint64_t seed,
                                uint64_t shuffle_seed) {
  AttentionCase c;
  c.shape = shape;
  c.sequences = sequences;
  DealBlocks(c, shuffle_seed);
  const auto elements = static_cast<size_t>(c.blocks * shape.g * shape.block_size * shape.e);
  c.k_cache.assign(elements, kNan);
  c.v_cache.assign(elements, kNan);
  while (c.decode_sequences < static_cast<int64_t>(sequences.size()) &&
         sequences[static_cast<size_t>(c.decode_sequences)].rows == 1)
    ++c.decode_sequences;
  SeededRandom random(seed);
  for (int64_t j = 0; j < shape.e / 2; ++j)
    c.inv_freq.push_back(static_cast<float>(
        std::pow(kTheta, -2.0 * static_cast<double>(j) / static_cast<double>(shape.e))));
  if (shape.norm) {
    c.q_norm = RoundedTo(shape.dtype, random.Uniform(shape.e, 0.5f, 1.5f));
    c.k_norm = RoundedTo(shape.dtype, random.Uniform(shape.e, 0.5f, 1.5f));
  }
  for (size_t i = 0; i < sequences.size(); ++i) FillSequence(c, i, seed);
  return c;
}

void MakeUniform(AttentionCase& c) {
  std::fill(c.k_cache.begin(), c.k_cache.end(), 0.25f);
  std::fill(c.v_cache.begin(), c.v_cache.end(), 0.5f);
  std::fill(c.kv_index.begin(), c.kv_index.end(), -1);
  const AttentionShape& s = c.shape;
  const int64_t row = (s.h + 2 * s.g) * s.e;
  for (int64_t i = 0; i < c.decode_sequences; ++i)
    std::fill_n(c.qkv.begin() + i * row + (s.h + s.g) * s.e, s.g * s.e, 0.5f);
}

AttentionReference ReferenceAttention(const AttentionCase& c) {
  const AttentionShape& s = c.shape;
  const auto e = static_cast<size_t>(s.e);
  const auto elements = static_cast<size_t>((c.t + c.extra_rows) * s.h) * e;
  AttentionReference reference{std::vector<double>(elements), std::vector<double>(elements)};
  for (size_t i = 0; i < c.sequences.size(); ++i) {
    const AttentionSequence& sequence = c.sequences[i];
    if (sequence.padding) continue;
    for (int64_t j = 0; j < sequence.rows * s.h; ++j) {
      const int64_t row = j / s.h, head = j % s.h, kv_head = head / (s.h / s.g);
      const auto visible = static_cast<size_t>(sequence.context - sequence.rows + row + 1);
      const auto at = static_cast<size_t>((c.q_start[i] + row) * s.h + head) * e;
      std::vector<double> p(visible);
      for (size_t token = 0; token < visible; ++token) {
        const size_t k = TokenAt(c, i, kv_head, static_cast<int64_t>(token));
        for (size_t d = 0; d < e; ++d) p[token] += double{c.q[at + d]} * c.k_cache[k + d];
        p[token] /= std::sqrt(static_cast<double>(s.e));
      }
      const double max = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - max);
      for (size_t token = 0; token < visible; ++token) {
        const size_t v = TokenAt(c, i, kv_head, static_cast<int64_t>(token));
        for (size_t d = 0; d < e; ++d) {
          reference.out[at + d] += p[token] / sum * c.v_cache[v + d];
          reference.magnitude[at + d] += p[token] / sum * std::abs(c.v_cache[v + d]);
        }
      }
    }
  }
  return reference;
}

std::vector<float> RunAttention(const OpDevice& on, const AttentionCase& c) {
  const AttentionShape& s = c.shape;
  const int64_t t = c.t + c.extra_rows;
  std::vector<float> q = c.q;
  q.resize(static_cast<size_t>(t * s.h * s.e), kNan);
  std::fill_n(q.begin(), c.decode_sequences * s.h * s.e, kNan);
  const FloatArray q_array = on.Upload(s.dtype, q), qkv = on.Upload(s.dtype, c.qkv);
  const FloatArray k_cache = on.Upload(s.dtype, BeforeTheStep(c, c.k_cache));
  const FloatArray v_cache = on.Upload(s.dtype, BeforeTheStep(c, c.v_cache));
  const FloatArray q_norm = on.Upload(s.dtype, c.q_norm), k_norm = on.Upload(s.dtype, c.k_norm);
  const auto inv_freq = on.Upload(c.inv_freq);
  const auto positions = on.Upload(c.positions);
  const auto kv_index = on.Upload(c.kv_index);
  const auto block_table = on.Upload(c.block_table), seq_slot = on.Upload(c.seq_slot),
             q_start = on.Upload(c.q_start), context = on.Upload(c.context);
  const ColumnOrder order = RandomOrder(s.h * s.e, 77);
  const auto places = on.Upload(order.places);
  const FloatArray out = on.Output(s.dtype, t * (c.ordered ? order.width() : s.h * s.e));
  const auto facts = on.runtime().Facts();
  TESSERA_CHECK(facts.ok(), facts.status().ToString());
  const auto count = static_cast<int64_t>(c.sequences.size());
  const int64_t workspace_bytes =
      PagedAttentionWorkspaceBytes(on.device(), facts->sm_count, t, count, s.h, s.g, s.e);
  const DeviceBytes workspace = on.Workspace(workspace_bytes);
  PagedAttentionArgs a;
  a.qkv = qkv.data();
  a.q = q_array.data();
  a.k_cache = k_cache.data();
  a.v_cache = v_cache.data();
  a.block_table = block_table.data();
  a.seq_slot = seq_slot.data();
  a.q_start = q_start.data();
  a.context = context.data();
  a.positions = positions.data();
  a.kv_index = kv_index.data();
  a.rotation = {.inv_freq = inv_freq.data(),
                .scale = s.rope_scale,
                .q_norm = s.norm ? q_norm.data() : nullptr,
                .k_norm = s.norm ? k_norm.data() : nullptr,
                .norm_eps = kNormEps};
  a.reads = c.reads;
  a.out = out.data();
  if (c.ordered) a.out_order = {places.data(), order.width()};
  a.t = t;
  a.s = count;
  a.h = s.h;
  a.g = s.g;
  a.e = s.e;
  a.decode_sequences = c.decode_sequences;
  a.block_size = s.block_size;
  a.max_blocks = c.max_blocks;
  a.blocks = c.blocks;
  for (const AttentionSequence& sequence : c.sequences)
    a.max_query = std::max(a.max_query, sequence.rows);
  a.max_context = c.max_context;
  a.scale = 1.f / std::sqrt(static_cast<float>(s.e));
  a.dtype = s.dtype;
  a.workspace = workspace.data();
  a.workspace_bytes = workspace_bytes;
  EXPECT_OK((on.device() == Device::kCpu ? PagedAttentionCpu(a, on.stream())
#ifdef TESSERA_WITH_CUDA
                                         : PagedAttentionCuda(a, on.stream())));
#else
                                         : absl::UnimplementedError("no CUDA")));
#endif
  ExpectCache(c, k_cache.Read(), c.k_cache, /*exact=*/false);
  ExpectCache(c, v_cache.Read(), c.v_cache, /*exact=*/true);
  return c.ordered ? InColumnOrder(out.Read(), order) : out.Read();
}

void ExpectNear(const std::vector<float>& out, const AttentionReference& reference,
                double relative) {
  ASSERT_EQ(out.size(), reference.out.size());
  double worst = 0;
  size_t worst_at = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double allowed = relative * reference.magnitude[i] + 1e-6;
    double ratio = std::abs(out[i] - reference.out[i]) / allowed;
    if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
    if (ratio <= worst) continue;
    worst = ratio;
    worst_at = i;
  }
  EXPECT_LE(worst, 1.0) << "element " << worst_at << ": " << out[worst_at] << ", reference "
                        << reference.out[worst_at] << ", magnitude "
                        << reference.magnitude[worst_at];
}

}  // namespace tessera::testing
