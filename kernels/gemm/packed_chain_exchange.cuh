// How products of one launch (packed_chain.h) hand each other what they compute: through memory in
// which a half word of 0 has not arrived. So a reader needs no other sign that a value is there,
// and what was sent needs no fence.
#pragma once

#include <cstdint>

#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// Values of half precision are sent as the complement of their bits: that of a number or of the NaN
// that conversions give is never 0.
struct alignas(128) ChainExchange {
  using Sent = uint16_t[kPackedChainMost - 1][kPackedChainWidth];
  // A launch sends in one, by its number, and clears the other for the next.
  Sent sent[2];
  uint32_t launches;  // that have ended
};
static_assert(kPackedChainWidth % 8 == 0);  // pieces of 16 bytes

__device__ __forceinline__ uint32_t LaunchesOf(const ChainExchange& exchange) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
               : "=r"(v)
               : "l"(&exchange.launches)
               : "memory");
  return v;
}
__device__ __forceinline__ uint16_t Receive(const uint16_t* from) {
  uint16_t v;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ uint4 Receive16(const void* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ void Send(uint16_t* to, uint16_t bits) {
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(to), "h"(static_cast<uint16_t>(~bits))
               : "memory");
}
__device__ __forceinline__ bool BothThere(uint32_t halves) {
  return ((halves - 0x00010001u) & ~halves & 0x80008000u) == 0;
}
__device__ __forceinline__ bool AllThere(const uint4& v) {
  return BothThere(v.x) && BothThere(v.y) && BothThere(v.z) && BothThere(v.w);
}

// What a product exchanges with others; null: nothing.
struct Links {
  const uint16_t *x, *residual;
  uint16_t* y;
};

// One row of x, from memory or as it is sent. Each warp has the elements of its next chunks under
// way while it multiplies by others.
template <typename T, int kBits>
class ChainX : public XDigits<T, kBits, PackedGemvForm::kLarge, true> {
  using Digits = XDigits<T, kBits, PackedGemvForm::kLarge, true>;
  using Digits::kWarps, Digits::kBlock, Digits::kPieces, Digits::p_, Digits::warp_;

 public:
  // `sent`: where x is sent, or null: in memory.
  __device__ __forceinline__ ChainX(const Params& p, const uint16_t* sent, char* xs,
                                    char* norm_weight, float* units)
      : Digits(p, xs, norm_weight, units), sent_(sent) {}

  __device__ __forceinline__ void Start() { Fetch(warp_); }
  __device__ __forceinline__ void WaitForFirst() const {
    WaitForCopies<0>();  // of the norm's weights
    __syncwarp();
  }
  __device__ __forceinline__ void WaitForAll() const {}

  // As Digits::Make().
  __device__ __forceinline__ void Make(int chunk, XPlace place, int row, float& squares) {
    bool waits = sent_ != nullptr && Wants(chunk) && !AllThere(next_);
    while (__any_sync(~0u, waits))
      if (waits) {
        next_ = Receive16(Source(chunk));
        waits = !AllThere(next_);
      }
    if (sent_ != nullptr) next_ = {~next_.x, ~next_.y, ~next_.z, ~next_.w};
    if (LaneIndex() < Digits::kTogether * kPieces && Mine(chunk) < p_.plan.chunks) {
      const XPlace mine = LaneIndex() < kPieces ? place : this->Behind(place);
      StoreShared16(mine.digits + LaneIndex() % kPieces * 16, Wants(chunk) ? next_ : uint4{});
    }
    __syncwarp();
    Fetch(chunk + Digits::kTogether * kWarps);
    Digits::Make(chunk, place, row, squares);
  }

 private:
  // Of the chunks from the warp's chunk `chunk` on, the one of which this lane has a piece, and
  // that piece.
  __device__ __forceinline__ int Mine(int chunk) const {
    return chunk + LaneIndex() / kPieces * kWarps;
  }
  __device__ __forceinline__ int Element(int chunk) const {
    return Mine(chunk) * kBlock + LaneIndex() % kPieces * 8;
  }
  __device__ __forceinline__ bool Wants(int chunk) const {
    return LaneIndex() < Digits::kTogether * kPieces &&
           Element(chunk) < static_cast<int>(p_.args.k);
  }
  __device__ __forceinline__ const void* Source(int chunk) const {
    return (sent_ != nullptr ? sent_ : static_cast<const uint16_t*>(p_.args.x)) + Element(chunk);
  }
  __device__ __forceinline__ void Fetch(int chunk) {
    if (Wants(chunk)) next_ = Receive16(Source(chunk));
  }

  const uint16_t* const sent_;
  uint4 next_ = {};
};

// What is added to outputs and where they go: what LinearArgs say, and the products behind.
template <typename T>
struct ChainPlace {
  struct Pending {
    float bias;
    uint16_t residual;  // as sent
  };
  __device__ __forceinline__ Pending LoadAddend(int row, int64_t n) const {
    if (links.residual == nullptr) return {Addend<T>(args, row, n), 0};
    const float bias =
        args.bias != nullptr ? static_cast<float>(static_cast<const T*>(args.bias)[n]) : 0.f;
    return {bias, Receive(links.residual + n)};
  }
  __device__ __forceinline__ float Loaded(Pending addend, int64_t n) const {
    if (links.residual == nullptr) return addend.bias;
    while (addend.residual == 0) addend.residual = Receive(links.residual + n);
    return addend.bias + ToFloat(static_cast<uint16_t>(~addend.residual));
  }
  __device__ __forceinline__ void Store(int row, int64_t n, float sum) const {
    StoreOutput<T>(args, row, n, sum);
    if (links.y != nullptr) Send(links.y + n, ToBits(sum));
  }

  const LinearArgs& args;
  const Links links;

 private:
  static __device__ __forceinline__ float ToFloat(uint16_t bits) {
    T v;
    memcpy(&v, &bits, sizeof(v));
    return static_cast<float>(v);
  }
  static __device__ __forceinline__ uint16_t ToBits(float sum) {
    const T v = FromFloat<T>(sum);
    uint16_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
  }
};

}  // namespace packed_gemv
}  // namespace tessera
