#include <algorithm>
#include <cstdint>
#include <numbers>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/decode_few.cuh"
#include "kernels/attention/decode_ranges.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/visit_dtype.cuh"

namespace tessera {
namespace {

DecodeParams ParamsOf(const PagedAttentionArgs& a, const DecodeLayout& layout) {
  DecodeParams p{};
  p.kv = PagedKvOf(a);
  p.qkv = a.qkv;
  p.k_cache = a.k_cache;
  p.v_cache = a.v_cache;
  p.out = AttentionOutOf(a);
  p.seq_slot = a.seq_slot;
  p.context = a.context;
  p.positions = a.positions;
  p.kv_index = a.kv_index;
  p.rotation = a.rotation;
  auto* workspace = static_cast<char*>(a.workspace);
  p.partials = reinterpret_cast<float*>(workspace);
  p.states = reinterpret_cast<float2*>(workspace + layout.partial_bytes);
  p.folded = reinterpret_cast<int32_t*>(workspace + layout.partial_bytes + layout.state_bytes);
  p.sequences = static_cast<int32_t>(a.decode_sequences);
  p.zero_rows = static_cast<int32_t>(a.s == a.decode_sequences ? a.t - a.decode_sequences : 0);
  p.h = static_cast<int32_t>(a.h);
  p.group = static_cast<int32_t>(a.h / a.g);
  p.parts = static_cast<int32_t>(layout.parts);
  p.rows = static_cast<int32_t>(layout.rows);
  p.heads = static_cast<int32_t>(layout.heads);
  p.blocks_per_sm = static_cast<uint32_t>(DecodeLayout::kBlocksPerSm);
  p.region_per_head = layout.region_per_head;
  p.early = a.reads == CacheReads::kEarly;
  p.cut = layout.cut;
  p.scale_log2 = a.scale * std::numbers::log2e_v<float>;
  return p;
}

using Kernel = void (*)(DecodeParams);
constexpr char kWhat[] = "paged_attention decode";

absl::Status Launch(Kernel kernel, int shared_bytes, const DecodeLayout& layout,
                    const PagedAttentionArgs& a, const Stream& stream) {
  const LaunchShape shape{dim3(static_cast<unsigned>(layout.blocks)), dim3(kDecodeThreads),
                          static_cast<size_t>(shared_bytes), stream.cuda};
  return LaunchDependent("paged_attention decode launch", kernel, shape, ParamsOf(a, layout));
}

template <typename T, int kE, int kTiles>
absl::Status LaunchRanges(const PagedAttentionArgs& a, const AttentionGpu& gpu,
                          const Stream& stream) {
  constexpr int kSharedBytes = DecodeRangesShape<kE, kTiles>::kSharedBytes;
  const DecodeLayout layout = ChooseDecodeLayout(gpu.sm_count, a.decode_sequences, a.h, a.g, a.e);
  // Work is counted in 32 bits, as if every sequence filled its row of the block table.
  const int64_t most_tokens = std::min<int64_t>(a.max_blocks * a.block_size, INT32_MAX);
  const int64_t most_work = a.decode_sequences * layout.heads *
                            CutContext(static_cast<int32_t>(most_tokens), layout.cut).Cost();
  if (most_work + layout.blocks > int64_t{UINT32_MAX})
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: ", a.decode_sequences, " decode sequences of up to ",
                     most_tokens, " tokens are ", most_work, " units of work, 2^32 is too many"));
  if (layout.regions > kMaxRegions)
    return absl::UnimplementedError(absl::StrCat("paged_attention: ", gpu.sm_count,
                                                 " multiprocessors take ", layout.regions,
                                                 " counters, of ", kMaxRegions));
  const Kernel kernel = DecodeRangesKernel<T, kE, kTiles>;
  RETURN_IF_ERROR(PrepareShared(kWhat, kernel, kSharedBytes));
  return Launch(kernel, kSharedBytes, layout, a, stream);
}

template <typename T, int kE, int kTiles>
absl::Status LaunchDecode(const PagedAttentionArgs& a, const AttentionGpu& gpu,
                          const Stream& stream) {
  constexpr int kSharedBytes = DecodeFewShape<kE, kTiles>::kSharedBytes;
  const Kernel kernel = DecodeFewKernel<T, kE, kTiles>;
  // Asked once per process: its devices are of one kind.
  static const absl::Status prepared = PrepareShared(kWhat, kernel, kSharedBytes);
  RETURN_IF_ERROR(prepared);
  static const int resident = [&] {
    int blocks = 0;
    const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &blocks, kernel, kDecodeThreads, kSharedBytes);
    return error == cudaSuccess ? blocks : 0;
  }();
  const DecodeLayout layout = ChooseFewLayout(gpu.sm_count, a.decode_sequences, a.h, a.g);
  // Blocks that wait for each other must all have a place.
  const bool fits = layout.cut.max_chunks == 1 || layout.blocks <= int64_t{resident} * gpu.sm_count;
  if (fits && IsFewSequences(layout, a.decode_sequences))
    return Launch(kernel, kSharedBytes, layout, a, stream);
  return LaunchRanges<T, kE, kTiles>(a, gpu, stream);
}

template <typename T, int kE>
absl::Status LaunchFor(const PagedAttentionArgs& a, const AttentionGpu& gpu, const Stream& stream) {
  return ChooseFewLayout(gpu.sm_count, a.decode_sequences, a.h, a.g).rows <= 8
             ? LaunchDecode<T, kE, 1>(a, gpu, stream)
             : LaunchDecode<T, kE, 2>(a, gpu, stream);
}

}  // namespace

absl::Status LaunchDecodeAttention(const PagedAttentionArgs& a, const AttentionGpu& gpu,
                                   const Stream& stream) {
  return VisitHalf(a.dtype, "paged_attention", [&]<typename T>(TypeTag<T>) {
    if (a.e == 32) return LaunchFor<T, 32>(a, gpu, stream);
    if (a.e == 64) return LaunchFor<T, 64>(a, gpu, stream);
    return LaunchFor<T, 128>(a, gpu, stream);
  });
}

}  // namespace tessera
