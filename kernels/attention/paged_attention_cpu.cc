#include <algorithm>
#include <numeric>
#include <vector>

#include <absl/status/status.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/attention/attend_row_cpu.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_check.h"
#include "kernels/gemm/place_row_cpu.h"
#include "kernels/runtime/cpu_pool.h"

namespace tessera {
namespace {

// Tokens of context that query `row` of sequence `i` attends to; 0 for a padding sequence.
int64_t VisibleTokens(const PagedAttentionArgs& a, int64_t i, int64_t row) {
  if (a.seq_slot[i] < 0) return 0;
  const int64_t behind = a.q_start[i + 1] - 1 - row;
  return std::clamp<int64_t>(a.context[i] - behind, 0, a.max_blocks * a.block_size);
}

// One (row, kv head): all query heads of the group, into out[h / g, e].
void AttendUnit(const PagedAttentionArgs& a, AttendRowFn attend, int64_t row, int64_t kv_head,
                float* out) {
  const int64_t group = a.h / a.g;
  const int64_t at = (row * a.h + kv_head * group) * a.e;
  const int32_t* end = a.q_start + a.s + 1;
  const int64_t i = std::upper_bound(a.q_start, end, row) - a.q_start - 1;  // the row's sequence
  const int64_t context = i >= 0 && i < a.s ? VisibleTokens(a, i, row) : 0;
  if (context == 0 || a.blocks == 0) {
    std::fill(out, out + group * a.e, 0.f);
    return;
  }
  AttendRowArgs unit;
  unit.q = static_cast<const float*>(a.q) + at;
  unit.out = out;
  unit.k_cache = static_cast<const float*>(a.k_cache) + kv_head * a.block_size * a.e;
  unit.v_cache = static_cast<const float*>(a.v_cache) + kv_head * a.block_size * a.e;
  unit.blocks = a.block_table + a.seq_slot[i] * a.max_blocks;
  unit.heads = group;
  unit.e = a.e;
  unit.context = context;
  unit.block_size = a.block_size;
  unit.block_stride = a.g * a.block_size * a.e;
  unit.block_count = a.blocks;
  unit.scale = a.scale;
  attend(unit);
}

// The same, to its columns of the op's out.
void AttendToOut(const PagedAttentionArgs& a, AttendRowFn attend, int64_t row, int64_t kv_head) {
  const int64_t columns = a.h / a.g * a.e, first = kv_head * columns;
  float* out = static_cast<float*>(a.out) + row * a.out_order.WidthOf(a.h * a.e);
  if (a.out_order.places == nullptr) {
    AttendUnit(a, attend, row, kv_head, out + first);
    return;
  }
  std::vector<float> unit(static_cast<size_t>(columns));
  AttendUnit(a, attend, row, kv_head, unit.data());
  PlaceRow(unit.data(), a.out_order.places + first, columns, out);
}

// A step through [0, count) that visits everything once and puts neighbours far apart: later rows
// of a prompt see more context, and a thread takes a contiguous range of steps.
int64_t ScatterStride(int64_t count) {
  int64_t stride = std::max<int64_t>(1, count * 5 / 8);
  while (std::gcd(stride, count) != 1) ++stride;
  return stride;
}

}  // namespace

absl::Status PagedAttentionCpu(const PagedAttentionArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckPagedAttention(a, Device::kCpu));
  if (a.t == 0 || a.h == 0) return absl::OkStatus();
  const RopeKvWriteArgs decode_rows = {.qkv = a.qkv,
                                       .positions = a.positions,
                                       .kv_index = a.kv_index,
                                       .rotation = a.rotation,
                                       .q_out = a.q,
                                       .k_cache = a.k_cache,
                                       .v_cache = a.v_cache,
                                       .t = a.decode_sequences,
                                       .h = a.h,
                                       .g = a.g,
                                       .e = a.e,
                                       .block_size = a.block_size,
                                       .cache_tokens = a.blocks * a.block_size,
                                       .dtype = a.dtype};
  RETURN_IF_ERROR(RopeKvWriteCpu(decode_rows, stream));
  TESSERA_CHECK(stream.pool != nullptr, "paged_attention: the stream has no CPU pool");
  const AttendRowFn attend = AttendRowForThisCpu();
  const int64_t units = a.t * a.g, stride = ScatterStride(units);
  stream.pool->ParallelFor(units, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t unit = i * stride % units;
      AttendToOut(a, attend, unit / a.g, unit % a.g);
    }
  });
  return absl::OkStatus();
}

}  // namespace tessera
