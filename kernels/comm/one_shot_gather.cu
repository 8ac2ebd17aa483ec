#include <absl/strings/str_cat.h>

#include "kernels/comm/one_shot_gather.h"
#include "kernels/comm/peer_packet.cuh"
#include "kernels/device/launch.cuh"

namespace tessera {
namespace {

constexpr int kCellThreads = static_cast<int>(kPeerCellPackets);
constexpr int64_t kWordsPerPacket = 2;

// One cell a block, one packet of two words a thread.
template <int kMaxRanks>
__global__ void __launch_bounds__(kCellThreads)
    OneShotGatherKernel(const __grid_constant__ OneShotGatherArgs a) {
  const PeerGroup& g = a.peers;
  const int64_t cell = blockIdx.x, packet = cell * kCellThreads + threadIdx.x;
  const int64_t words = a.bytes / 4, at = packet * kWordsPerPacket;
  const auto* send = static_cast<const uint32_t*>(a.send);
  LetNextStart();
  WaitForPrevious();
  if (at < words) {
    const PacketPlace place = {packet, *CounterOf(g, cell)};
    const bool both = at + 1 < words;
    const uint4 mine = make_uint4(send[at], 0, both ? send[at + 1] : 0, 0);
    SendToPeers(g, place, mine);
    uint4 parts[kMaxRanks];
    TakeFromPeers(g, place, GatherPacketCame(), parts);
#pragma unroll
    for (int r = 0; r < kMaxRanks; ++r) {
      if (r >= g.ranks) continue;
      const uint4 part = r == g.rank ? mine : parts[r];
      uint32_t* recv = static_cast<uint32_t*>(a.recv) + r * words + at;
      recv[0] = part.x;
      if (both) recv[1] = part.z;
    }
  }
  __syncthreads();  // all have read the counter
  if (threadIdx.x == 0) *CounterOf(g, cell) += 1;
}

}  // namespace

absl::Status LaunchOneShotGather(const OneShotGatherArgs& a, cudaStream_t stream) {
  const int64_t cells = PeerCells(2 * a.bytes);
  if (a.bytes < 0 || a.bytes % 4 != 0 || cells > a.peers.cells)
    return absl::InvalidArgumentError(absl::StrCat("one_shot_gather: bytes=", a.bytes,
                                                   "; the region has ", a.peers.cells, " cells"));
  if (a.bytes == 0) return absl::OkStatus();
  return VisitMaxRanks(a.peers.ranks, [&]<int kMaxRanks>(std::integral_constant<int, kMaxRanks>) {
    return LaunchDependent(
        "one_shot_gather launch", OneShotGatherKernel<kMaxRanks>,
        {.grid = dim3(static_cast<unsigned>(cells)), .block = dim3(kCellThreads), .stream = stream},
        a);
  });
}

}  // namespace tessera
