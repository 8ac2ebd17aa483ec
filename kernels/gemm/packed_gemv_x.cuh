// How the packed few-row kernel (packed_gemv.h) keeps x in shared memory: as bytes.
//
// The elements of a chunk of k and a row of x, times the norm's weight where asked, become integers
// below 2^22 in units of a power of two of the chunk's own. An integer is three signed digits of
// base 256, so that the tensor cores multiply and add it exactly. An element at or above 2^-14 of
// the chunk's largest is exact in bf16 (2^-11 in f16); what is smaller is off by 2^-23 of the
// largest at most, as it would be in a sum in fp32.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// Where the digits of a chunk lie. A digit of a row is PackedXSlot(kBits) bytes: for each of four
// lanes of a quad, the words that it feeds to the chunk's products in turn. Slots of a chunk come
// in halves of 64 bytes, [half][slot][lane][4 words]: eight lanes that read 16 bytes each of two
// neighbouring slots meet no bank twice.
template <int kBits, bool kWide>
struct XLayout {
  static constexpr int kHalf = 64;
  static constexpr int kHalves = kPackedXSlot(kBits) / kHalf;
  // kWide: digits of the same place lie side by side, otherwise those of the same row.
  static __device__ __forceinline__ int Slot(int row, int digit, int t) {
    return kWide ? digit * t + row : row * kPackedXDigits + digit;
  }
};

// Each multiplying warp keeps the chunks that it multiplies: no other reads them.
template <typename T, int kBits, bool kWide>
class XKeeper {
  using Layout = XLayout<kBits, kWide>;
  static constexpr int kLanes = kPackedXSlot(kBits) / 4;  // that keep four elements each
  static constexpr int kBlock = static_cast<int>(PackedBlock(kBits));

 public:
  // `xs` has room for the digits and `scales` for what a digit of a chunk counts, [chunks][t].
  __device__ XKeeper(const Params& p, char* xs, char* weights, float* scales)
      : p_(p),
        t_(static_cast<int>(p.args.t)),
        k_(static_cast<int>(p.args.k)),
        xs_(SharedAddress(xs)),
        weights_(SharedAddress(weights)),
        scales_(SharedAddress(scales)) {
    const int lane = LaneIndex();
    // Word `word` of lane `quad`: elements (packed_weight.h) first_, + 1 and, behind a gap, two
    // more. Lanes past kLanes repeat others and keep nothing.
    const int word = lane % kLanes / 4, quad = lane % 4;
    first_ = kBits == 4 ? word / 2 * 32 + word % 2 * 8 + quad * 2 : word * 16 + quad * 2;
    word_ = word / 4 * (t_ * kPackedXDigits * Layout::kHalf) + quad * 16 + word % 4 * 4;
    if (p.args.norm_weight != nullptr)
      ForOwnPairs([&](int k, int at) {
        CopyAsync4(weights_ + at, static_cast<const T*>(p_.args.norm_weight) + k, k < k_);
      });
  }

  // Starts to copy x, zeros past k; after the wait for the previous kernel.
  __device__ __forceinline__ void Start() const {
    for (int row = 0; row < t_; ++row) {
      const T* const from = static_cast<const T*>(p_.args.x) + static_cast<int64_t>(row) * k_;
      for (int chunk = Warp(); chunk < p_.plan.chunks; chunk += p_.plan.warps) {
        const int k = chunk * kBlock + first_;
        Copy(At(chunk, row, 0), from, k);
        Copy(At(chunk, row, 1), from, k + kGap);
      }
    }
    CommitCopies();
  }
  // Waits for what this thread copies.
  __device__ __forceinline__ void Wait() const { WaitForCopies<0>(); }

  // Turns a chunk of a row into digits, in place, and adds the squares of this lane's elements to
  // `squares`. A barrier of the warp comes after it.
  __device__ __forceinline__ void Convert(int chunk, int row, float& squares) const {
    const float2 even = UnpackHalves<T>(LoadShared4(At(chunk, row, 0)));
    const float2 odd = UnpackHalves<T>(LoadShared4(At(chunk, row, 1)));
    float v[4] = {even.x, odd.x, even.y, odd.y};  // in the order of the weights' bytes
    const bool keeps = kLanes == kWarp || LaneIndex() < kLanes;
    if (p_.args.norm_weight != nullptr) {
      float sum = 0;
#pragma unroll
      for (const float one : v) sum += one * one;
      if (keeps) squares += sum;
      const uint32_t at = weights_ + (chunk * kBlock + first_) * 2;
      const float2 by_even = UnpackHalves<T>(LoadShared4(at));
      const float2 by_odd = UnpackHalves<T>(LoadShared4(at + kGap * 2));
      v[0] *= by_even.x, v[1] *= by_odd.x, v[2] *= by_even.y, v[3] *= by_odd.y;
    }
    uint32_t top = 0;  // the largest magnitude's bits
#pragma unroll
    for (const float one : v) top = max(top, __float_as_uint(one) & 0x7fffffffu);
    // Its exponent; those of rows below 2^-101 are not brought up all the way.
    const uint32_t exponent = max(__reduce_max_sync(~0u, top) >> 23, 26u);
    const float up = __uint_as_float((275 - exponent) << 23);  // to below 2^22
    uint32_t digits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t rounded = __float_as_uint(__fmaf_rn(v[i], up, kMagic));
      digits[i] = (rounded - static_cast<uint32_t>(kMagicBits) + 0x808080u) ^ 0x808080u;
    }
    uint32_t words[kPackedXDigits];
    Transpose(digits, words);
    if (!keeps) return;
#pragma unroll
    for (int digit = 0; digit < kPackedXDigits; ++digit)
      StoreShared4(At(chunk, row, digit), words[digit]);
    // What is no number makes all of its chunk's products none.
    const uint32_t unit = exponent > 254 ? 0x7fc00000u : (exponent - (kBits == 4 ? 25 : 21)) << 23;
    if (LaneIndex() == 0) StoreShared4(scales_ + (chunk * t_ + row) * 4, unit);
  }

 private:
  static constexpr int kGap = kBits == 4 ? 16 : 8;

  static __device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  // This lane's word of a digit.
  __device__ __forceinline__ uint32_t At(int chunk, int row, int digit) const {
    return xs_ + chunk * (t_ * kPackedXDigits * kPackedXSlot(kBits)) + word_ +
           Layout::Slot(row, digit, t_) * Layout::kHalf;
  }
  __device__ __forceinline__ void Copy(uint32_t to, const T* from, int k) const {
    CopyAsync4(to, from + (k < k_ ? k : 0), k < k_);
  }
  // Visits the pairs of elements that this lane keeps: the first one's k, and its place in a row.
  template <typename Visit>
  __device__ __forceinline__ void ForOwnPairs(const Visit& visit) const {
    for (int chunk = Warp(); chunk < p_.plan.chunks; chunk += p_.plan.warps)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int k = chunk * kBlock + first_ + i * kGap;
        visit(k, k * 2);
      }
  }
  // Byte i of words[d] is byte d of digits[i].
  static __device__ __forceinline__ void Transpose(const uint32_t (&digits)[4],
                                                   uint32_t (&words)[kPackedXDigits]) {
    const uint32_t low = __byte_perm(digits[0], digits[1], 0x5140);
    const uint32_t high = __byte_perm(digits[2], digits[3], 0x5140);
    words[0] = __byte_perm(low, high, 0x5410);
    words[1] = __byte_perm(low, high, 0x7632);
    words[2] = __byte_perm(__byte_perm(digits[0], digits[1], 0x0062),
                           __byte_perm(digits[2], digits[3], 0x0062), 0x5410);
  }

  const Params& p_;
  const int t_, k_;
  const uint32_t xs_, weights_, scales_;
  int first_;  // element of a chunk
  int word_;   // from a chunk's digits on
};

}  // namespace packed_gemv
}  // namespace tessera
