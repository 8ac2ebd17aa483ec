// How the packed few-row kernel (packed_gemv.h) keeps x in shared memory: as bytes.
//
// The elements of a chunk of k and a row of x, times the norm's weight where asked, become integers
// below 2^22 in units of a power of two of the chunk's own. An integer is three signed digits of
// base 256, so that the tensor cores multiply and add it exactly. An element at or above 2^-14 of
// the chunk's largest is exact in bf16 (2^-11 in f16); what is smaller is off by 2^-22 of the
// largest at most, so that a chunk's sum errs by 2^-22 max|x| sum|w|.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace packed_gemv {

// Where the digits of a chunk of a row lie, PackedXChunk() bytes. A digit is one or two halves of
// 64 bytes: for each of four lanes of a quad, four words that it feeds to the products in turn.
// Eight lanes that read 16 bytes each of neighbouring digits, or of one digit of neighbouring rows,
// meet no bank twice.
template <int kBits>
struct XLayout {
  static constexpr int kHalf = 64;
  static constexpr int kHalves = PackedXSlot(kBits) / kHalf;
  static constexpr int kChunk = PackedXChunk(kBits);
  // With 4 bits neighbouring rows lie a multiple of all banks apart.
  static __device__ __forceinline__ int At(int half, int digit, int row) {
    return ((half * kPackedXDigits + digit) ^ (kBits == 4 ? row & 1 : 0)) * kHalf;
  }
};

// What a lane has to do with a chunk: four elements, and in which words they go.
template <typename T, int kBits>
class ChunkDigits {
  using Layout = XLayout<kBits>;
  static constexpr int kWords = PackedXSlot(kBits) / 4;  // of a digit; a lane each
  static constexpr int kGap = kBits == 4 ? 16 : 8;

 public:
  __device__ __forceinline__ ChunkDigits() {
    // Word `word` of lane `quad` has elements (packed_weight.h) first_, + 1 and, kGap behind, two
    // more. Lanes past kWords repeat others and keep nothing.
    const int word = LaneIndex() % kWords / 4, quad = LaneIndex() % 4;
    first_ = kBits == 4 ? word / 2 * 32 + word % 2 * 8 + quad * 2 : word * 16 + quad * 2;
    half_ = word / 4;
    in_half_ = quad * 16 + word % 4 * 4;
  }

  // Turns the elements at `at`, in order, of kCount chunks of row `row` of x into digits in the
  // same place; what a digit 0 counts goes to `units`. `weights` are the places of the norm's
  // weights, if kNormed; adds the squares of this lane's elements to `squares` then. All lanes;
  // only the first `count` chunks are kept. A barrier of the warp comes after it.
  template <bool kNormed, int kCount>
  __device__ __forceinline__ void Make(const uint32_t (&at)[kCount], int count, int row,
                                       const uint32_t (&units)[kCount],
                                       const uint32_t (&weights)[kCount], float& squares) const {
    const bool mine = kWords == kWarp || LaneIndex() < kWords;
    float v[kCount][4];  // in the order of the weights' bytes
#pragma unroll
    for (int c = 0; c < kCount; ++c) Load(at[c], v[c]);
    if (kNormed) {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        float by[4];
        Load(weights[c], by);
        const float sum =
            (v[c][0] * v[c][0] + v[c][1] * v[c][1]) + (v[c][2] * v[c][2] + v[c][3] * v[c][3]);
        if (mine && c < count) squares += sum;
#pragma unroll
        for (int i = 0; i < 4; ++i) v[c][i] *= by[i];
      }
    }
    uint32_t top[kCount];  // bits of the largest magnitude
#pragma unroll
    for (int c = 0; c < kCount; ++c)
      top[c] = __float_as_uint(Larger(Larger(v[c][0], v[c][1]), Larger(v[c][2], v[c][3])));
#pragma unroll
    for (int c = 0; c < kCount; ++c) top[c] = __reduce_max_sync(~0u, top[c]);
    __syncwarp();  // all lanes have their elements
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      // The exponent; chunks whose largest is below 2^-101 are not brought up all the way.
      const uint32_t exponent = max(top[c] >> 23, 26u);
      const float up = __uint_as_float((275 - exponent) << 23);  // to below 2^22
      uint32_t digits[4], words[kPackedXDigits];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t rounded = __float_as_uint(__fmaf_rn(v[c][i], up, kMagic));
        digits[i] = (rounded + (0x808080u - static_cast<uint32_t>(kMagicBits))) ^ 0x808080u;
      }
      Transpose(digits, words);
      if (mine && c < count) {
#pragma unroll
        for (int digit = 0; digit < kPackedXDigits; ++digit)
          StoreShared4(at[c] + in_half_ + Layout::At(half_, digit, row), words[digit]);
      }
      // What is no number makes all of its chunk's products none.
      const uint32_t counts =
          exponent > 254 ? 0x7fc00000u : (exponent - (kBits == 4 ? 25 : 21)) << 23;
      if (LaneIndex() == 0 && c < count) StoreShared4(units[c], counts);
    }
  }

 private:
  // This lane's elements of a chunk.
  __device__ __forceinline__ void Load(uint32_t at, float (&v)[4]) const {
    const float2 even = UnpackHalves<T>(LoadShared4(at + first_ * 2));
    const float2 odd = UnpackHalves<T>(LoadShared4(at + first_ * 2 + kGap * 2));
    v[0] = even.x, v[1] = odd.x, v[2] = even.y, v[3] = odd.y;
  }
  // The larger magnitude; what is no number is larger.
  static __device__ __forceinline__ float Larger(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(fabsf(a)), "f"(fabsf(b)));
    return c;
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

  int first_;           // element of a chunk
  int half_, in_half_;  // of a digit; bytes
};

// Where a warp finds the digits of a chunk, and what they count.
struct XPlace {
  uint32_t digits, units;  // of the first row
};

// The digits of rows of x, [places][t]. Each multiplying warp makes those of the chunks that it
// multiplies: no other reads them. A chunk has a place of its own or, in a kernel of several
// products, may get that of one that is done with.
template <typename T, int kBits, PackedGemvForm kForm, bool kSharesPlaces>
class XDigits {
 protected:
  using Layout = XLayout<kBits>;
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kBlock = static_cast<int>(PackedBlock(kBits));
  static constexpr int kPieces = kBlock / 8;  // of 16 bytes, of a chunk
  static constexpr int kAtOnce = kWarp / kPieces;

 public:
  __device__ __forceinline__ XDigits(const Params& p, char* xs, char* norm_weight, float* units)
      : p_(p),
        warp_(WarpIndex()),
        t_(RowsOf<kForm>(p)),
        xs_(SharedAddress(xs)),
        norm_weight_(SharedAddress(norm_weight)),
        units_(SharedAddress(units)),
        end_(p.plan.x_places < p.plan.chunks ? First().digits + p.plan.x_places * Layout::kChunk
                                             : 0) {
    if (p.args.norm_weight != nullptr)
      Copy(static_cast<const T*>(p.args.norm_weight), norm_weight_, kBlock * 2, warp_,
           p.plan.chunks);
  }

  // Chunks of a warp whose digits are made together.
  static constexpr int kTogether = kPackedXTogether;

  // Where the warp's first chunk has its place, and the chunk behind the one at `place`.
  __device__ __forceinline__ XPlace First() const {
    return {xs_ + warp_ * (t_ * Layout::kChunk), units_ + warp_ * (t_ * 4)};
  }
  __device__ __forceinline__ XPlace Next(XPlace place) const {
    place = Behind(place);
    return kSharesPlaces && place.digits == end_ ? First() : place;
  }

  // Makes the digits of a row of kTogether chunks of the warp, as far as they exist, from `chunk`
  // on, out of the elements in their places: `place` and those behind it. A barrier of the warp
  // comes after it.
  __device__ __forceinline__ void Make(int chunk, XPlace place, int row, float& squares) const {
    uint32_t at[kTogether], units[kTogether], weights[kTogether];
    const int count = Count(chunk);
#pragma unroll
    for (int c = 0; c < kTogether; ++c) {
      at[c] = place.digits + row * Layout::kChunk;
      units[c] = place.units + row * 4;
      weights[c] = norm_weight_ + (chunk + (c < count ? c : 0) * kWarps) * (kBlock * 2);
      if (c + 1 < count) place = Behind(place);
    }
    if (p_.args.norm_weight != nullptr) {
      digits_.template Make<true>(at, count, row, units, weights, squares);
    } else {
      digits_.template Make<false>(at, count, row, units, weights, squares);
    }
  }

 protected:
  // Of kTogether chunks of the warp from `chunk` on, how many exist.
  __device__ __forceinline__ int Count(int chunk) const {
    int count = 0;
#pragma unroll
    for (int c = 0; c < kTogether; ++c)
      if (chunk + c * kWarps < p_.plan.chunks) ++count;
    return count;
  }

  // Of chunks that keep their places together.
  __device__ __forceinline__ XPlace Behind(XPlace place) const {
    return {place.digits + kWarps * t_ * Layout::kChunk, place.units + kWarps * t_ * 4};
  }
  // Copies this warp's chunks of a row from `chunk` to `end`; chunk i goes i * stride behind `to`.
  __device__ __forceinline__ void Copy(const T* from, uint32_t to, int stride, int chunk,
                                       int end) const {
    const int piece = LaneIndex() % kPieces;
    for (chunk += LaneIndex() / kPieces * kWarps; chunk < end; chunk += kAtOnce * kWarps) {
      const int k = chunk * kBlock + piece * 8;
      const bool valid = k < static_cast<int>(p_.args.k);
      CopyAsync16L1(to + chunk * stride + piece * 16, from + (valid ? k : 0), valid);
    }
  }

  const Params& p_;
  const ChunkDigits<T, kBits> digits_;
  const int warp_, t_;
  const uint32_t xs_, norm_weight_, units_;
  const uint32_t end_;  // the warp's first place again
};

// All of x: each warp copies its chunks to where their digits will be.
template <typename T, int kBits, PackedGemvForm kForm>
class XKeeper : public XDigits<T, kBits, kForm, false> {
  using Digits = XDigits<T, kBits, kForm, false>;
  using Digits::kWarps, Digits::p_, Digits::warp_, Digits::t_, Digits::xs_;
  using typename Digits::Layout;

 public:
  using Digits::Digits;

  // Starts to copy x, zeros past k, the warp's first chunks ahead of the others; after the wait for
  // the previous kernel.
  __device__ __forceinline__ void Start() const {
    const int near = warp_ + Digits::kTogether * kWarps;
    CopyRows(warp_, min(near, p_.plan.chunks));
    CommitCopies();
    CopyRows(near, p_.plan.chunks);
    CommitCopies();
  }
  // Waits for what the warp copies: its first chunks or all.
  __device__ __forceinline__ void WaitForFirst() const {
    WaitForCopies<1>();
    __syncwarp();
  }
  __device__ __forceinline__ void WaitForAll() const {
    WaitForCopies<0>();
    __syncwarp();
  }

 private:
  __device__ __forceinline__ void CopyRows(int chunk, int end) const {
    for (int row = 0; row < t_; ++row)
      this->Copy(static_cast<const T*>(p_.args.x) + row * p_.args.k, xs_ + row * Layout::kChunk,
                 t_ * Layout::kChunk, chunk, end);
  }
};

}  // namespace packed_gemv
}  // namespace tessera
