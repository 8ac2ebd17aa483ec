// How products of one launch (packed_chain.h) hand each other what they compute: through memory in
// which a word of 0 has not arrived. So a reader needs no other sign that a value is there, and
// what was sent needs no fence.
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
  // By a launch's number: what the launch sends; all zeros, for the next one.
  Sent sent[2];
  uint32_t launches;
};

__device__ __forceinline__ uint16_t Receive(const uint16_t* from) {
  uint16_t v;
  asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ uint32_t Receive4(const uint16_t* from) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ void Send(uint16_t* to, uint16_t bits) {
  asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(to), "h"(static_cast<uint16_t>(~bits))
               : "memory");
}
__device__ __forceinline__ bool BothThere(uint32_t halves) {
  return ((halves - 0x00010001u) & ~halves & 0x80008000u) == 0;
}
// What a product exchanges with others; null: nothing.
struct Links {
  const uint16_t *x, *residual;
  uint16_t* y;
};

// One row of x, from memory or as it is sent. Each lane has its elements of the warp's next chunks
// under way while the warp multiplies by others.
template <typename T, int kBits>
class ChainX : public XDigits<T, kBits, PackedGemvForm::kLarge, true> {
  using Digits = XDigits<T, kBits, PackedGemvForm::kLarge, true>;
  using Digits::kWarps, Digits::kBlock, Digits::p_;
  static constexpr int kPairs = ChunkDigits<T, kBits>::kPairs;

 public:
  __device__ __forceinline__ ChainX(const Params& p, const Links& links, char* xs,
                                    char* norm_weight, float* units)
      : Digits(p, xs, norm_weight, units), sent_(links.x) {}

  __device__ __forceinline__ void Start() { Fetch(this->warp_); }
  __device__ __forceinline__ void WaitForFirst() const {
    WaitForCopies<0>();  // of the norm's weights
    __syncwarp();
  }
  __device__ __forceinline__ void WaitForAll() const {}

  // As XKeeper::Make().
  __device__ __forceinline__ void Make(int chunk, XPlace place, int row, float& squares) {
    typename Digits::Elements elements[Digits::kTogether];
#pragma unroll
    for (int c = 0; c < Digits::kTogether; ++c)
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int element = ElementOf(chunk, c, i);
        const bool wanted = element < static_cast<int>(p_.args.k);
        uint32_t word = next_[c][i];
        if (sent_ != nullptr && wanted) {
          while (!BothThere(word)) word = Receive4(sent_ + element);
          word = ~word;
        }
        elements[c][i] = wanted ? word : 0;
      }
    Fetch(chunk + Digits::kTogether * kWarps);
    this->MakeFrom(elements, chunk, place, row, squares);
  }

 private:
  // Of pair `pair` of this lane's elements of the c-th of the warp's chunks from `chunk` on.
  __device__ __forceinline__ int ElementOf(int chunk, int c, int pair) const {
    return (chunk + c * kWarps) * kBlock + this->digits_.ElementOf(pair);
  }
  __device__ __forceinline__ void Fetch(int chunk) {
    const auto* const from = sent_ != nullptr ? sent_ : static_cast<const uint16_t*>(p_.args.x);
#pragma unroll
    for (int c = 0; c < Digits::kTogether; ++c)
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int element = ElementOf(chunk, c, i);
        if (element < static_cast<int>(p_.args.k)) next_[c][i] = Receive4(from + element);
      }
  }

  const uint16_t* const sent_;
  uint32_t next_[Digits::kTogether][kPairs] = {};
};

// What is added to outputs and where they go: what LinearArgs say, and the products behind.
template <typename T>
struct ChainPlace {
  struct Loading {
    float bias;
    uint16_t residual;  // as sent
  };
  __device__ __forceinline__ Loading LoadAddend(int row, int64_t n) const {
    if (links.residual == nullptr) return {Addend<T>(args, row, n), 0};
    const float bias =
        args.bias != nullptr ? static_cast<float>(static_cast<const T*>(args.bias)[n]) : 0.f;
    return {bias, Receive(links.residual + n)};
  }
  __device__ __forceinline__ float Loaded(Loading addend, int64_t n) const {
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
