// Packets between GPUs: sending one, and waiting for those of all peers.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include "kernels/comm/peer_group.h"

namespace tessera {

constexpr uint32_t kNotCome = 0xffffffffu;      // a word of a packet that has not come
constexpr uint32_t kSentInstead = 0x7fff7fffu;  // NaN as f32 and as two f16 or bf16

// Accesses between GPUs go by these: never cached in L1, each 8-byte half whole.
__device__ __forceinline__ void StorePacket(uint4* to, uint4 p) {
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
               "l"(uint64_t{p.x} | uint64_t{p.y} << 32), "l"(uint64_t{p.z} | uint64_t{p.w} << 32)
               : "memory");
}
__device__ __forceinline__ uint4 LoadPacket(const uint4* from) {
  uint64_t low, high;
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(low), "=l"(high)
               : "l"(from)
               : "memory");
  return make_uint4(static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
                    static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32));
}

__device__ __forceinline__ uint64_t GlobalNanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// A sum's packet as it travels.
__device__ __forceinline__ uint4 Sendable(uint4 p) {
  p.x = p.x == kNotCome ? kSentInstead : p.x;
  p.y = p.y == kNotCome ? kSentInstead : p.y;
  p.z = p.z == kNotCome ? kSentInstead : p.z;
  p.w = p.w == kNotCome ? kSentInstead : p.w;
  return p;
}
struct SumPacketCame {
  __device__ __forceinline__ bool operator()(uint4 p) const {
    return p.x != kNotCome && p.y != kNotCome && p.z != kNotCome && p.w != kNotCome;
  }
};
// Gathered packets are {data, flag, data, flag}.
struct GatherPacketCame {
  __device__ __forceinline__ bool operator()(uint4 p) const {
    return p.y != kNotCome && p.w != kNotCome;
  }
};

// A thread's place in the regions: packet `packet` of this use of its cell, whose counter reads
// `uses`.
struct PacketPlace {
  int64_t packet;
  uint32_t uses;
};

// Where the packet that `from` sends lies in the region of `to`.
__device__ __forceinline__ uint4* PacketAt(const PeerGroup& g, PacketPlace place, int from,
                                           int to) {
  const int64_t half = place.uses & 1u;
  return static_cast<uint4*>(g.regions[to]) + (half * g.ranks + from) * g.cells * kPeerCellPackets +
         place.packet;
}

__device__ __forceinline__ uint32_t* CounterOf(const PeerGroup& g, int64_t cell) {
  // PeerCountersOffset()
  return reinterpret_cast<uint32_t*>(static_cast<char*>(g.regions[g.rank]) +
                                     2 * g.ranks * g.cells * kPeerCellBytes) +
         cell;
}

__device__ __forceinline__ void SendToPeers(const PeerGroup& g, PacketPlace place, uint4 packet) {
  // Begins with the next rank, so that not all ranks write to the same one first.
  for (int step = 1; step < g.ranks; ++step) {
    const int to = g.rank + step < g.ranks ? g.rank + step : g.rank + step - g.ranks;
    StorePacket(PacketAt(g, place, g.rank, to), packet);
  }
}

// True when the wait should be given up. Called now and then by a thread that waits for `peer`.
__device__ __forceinline__ bool GiveUp(const PeerGroup& g, int peer, uint64_t start) {
  if (*static_cast<const volatile uint32_t*>(g.abort_flag) != 0) return true;
  if (GlobalNanoseconds() - start < g.spin_limit_ns) return false;
  *static_cast<volatile uint32_t*>(g.missing_rank) = static_cast<uint32_t>(peer) + 1;
  __threadfence_system();
  __trap();
  return true;
}

// parts[r] = the packet of rank r for every r but this rank, whose parts[rank] is left alone. Takes
// each packet out of the region, which is then ready for its next use.
template <int kMaxRanks, typename Came>
__device__ __forceinline__ void TakeFromPeers(const PeerGroup& g, PacketPlace place, Came came,
                                              uint4 (&parts)[kMaxRanks]) {
  constexpr uint32_t kLooksBetweenChecks = 1024;
  constexpr uint4 kEmpty = {kNotCome, kNotCome, kNotCome, kNotCome};
  uint64_t start = 0;
  for (uint32_t looks = 1;; ++looks) {
    int missing = -1;
#pragma unroll
    for (int r = 0; r < kMaxRanks; ++r)
      if (r < g.ranks && r != g.rank) parts[r] = LoadPacket(PacketAt(g, place, r, g.rank));
#pragma unroll
    for (int r = 0; r < kMaxRanks; ++r)
      if (r < g.ranks && r != g.rank && !came(parts[r])) missing = r;
    if (missing < 0) break;
    if (looks % kLooksBetweenChecks == 0) {
      if (start == 0) start = GlobalNanoseconds();
      if (GiveUp(g, missing, start)) break;
    }
  }
#pragma unroll
  for (int r = 0; r < kMaxRanks; ++r)
    if (r < g.ranks && r != g.rank) StorePacket(PacketAt(g, place, r, g.rank), kEmpty);
}

// Calls body(std::integral_constant<int, n>()) with the least n of 2, 4, 8 that holds `ranks`.
template <typename Body>
auto VisitMaxRanks(int ranks, Body&& body) {
  if (ranks <= 2) return body(std::integral_constant<int, 2>());
  if (ranks <= 4) return body(std::integral_constant<int, 4>());
  return body(std::integral_constant<int, kMaxPeerRanks>());
}

}  // namespace tessera
