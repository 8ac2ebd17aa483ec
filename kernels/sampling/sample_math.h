// The arithmetic of sampling, shared by the CPU and CUDA.
//
// Probabilities are kept as integer weights, so that sums do not depend on their order and both
// devices choose the same token, bit for bit. The candidates of a row are ordered by logit, highest
// first, lower ids first among equals; top-k, top-p and min-p each keep a prefix of that order, and
// the draw takes the first candidate whose running sum of weights exceeds a random target.
//
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr). Where a
// product and a sum meet, the product is exact, so fused operations give the same result.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/sampling/philox.h"
#include "kernels/sampling/sample.h"

namespace tessera {

inline constexpr float kNoLogit = -std::numeric_limits<float>::infinity();

// Weights are fractions of the largest one, in steps of 2^-42: a token below 2^-42 of the best has
// weight 0. A vocabulary of 2^20 sums to less than 2^63.
inline constexpr int kWeightBits = 42;
inline constexpr uint64_t kMaxWeight = uint64_t{1} << kWeightBits;
inline constexpr int64_t kMaxVocab = int64_t{1} << 20;

// Candidates are binned by weight, 32 bins for each power of two.
inline constexpr int kBinsPerOctave = 32;
inline constexpr int kWeightBins = kWeightBits * kBinsPerOctave;

// NaN counts as -inf; -0 becomes +0, so that keys of equal logits are equal.
constexpr float CleanLogit(float logit) { return logit == logit ? logit + 0.f : kNoLogit; }

// An integer that orders as the (clean) logit does. Never 0.
constexpr uint32_t KeyOf(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
constexpr float LogitOf(uint32_t key) {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

// A candidate as one integer: greater is earlier in the order. 0 is no candidate.
constexpr uint64_t PackCandidate(float logit, int64_t id) {
  return uint64_t{KeyOf(logit)} << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
constexpr int32_t IdOf(uint64_t candidate) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(candidate));
}
constexpr uint32_t KeyOf(uint64_t candidate) { return static_cast<uint32_t>(candidate >> 32); }

// A clean logit after the penalties: repetition on tokens of prompt and output (Keskar et al.,
// "CTRL", 2019: divide when positive, multiply when negative), frequency and presence on tokens of
// the output. In fp64, rounded once.
constexpr float PenalisedLogit(float logit, uint16_t seen, const SamplingParams& p) {
  if (seen == 0) return logit;
  const int times = seen & 0x7fff;
  double value = logit;
  value = value > 0. ? value / p.repetition_penalty : value * p.repetition_penalty;
  value -= static_cast<double>(p.frequency_penalty) * times;
  if (times > 0) value -= p.presence_penalty;
  return CleanLogit(static_cast<float>(value));
}

constexpr bool IsGreedy(const SamplingParams& p) { return !(p.temperature > 0.f); }

// How far a candidate lies below the best one: -log2(weight) with 32 fraction bits; kTooFar when
// its weight is 0. Dividing after the subtraction keeps tiny temperatures from overflowing.
inline constexpr uint64_t kTooFar = ~uint64_t{0};
constexpr uint64_t DistanceOf(float logit, float best, float temperature) {
  constexpr double kLog2E = 1.4426950408889634;
  if (logit == best) return 0;
  const float scaled = (logit - best) / temperature;
  const double octaves = -static_cast<double>(scaled) * kLog2E;
  if (!(octaves < kWeightBits)) return kTooFar;  // also NaN: both infinite
  return static_cast<uint64_t>(octaves * 0x1p32);
}
constexpr int BinOf(uint64_t distance) { return static_cast<int>(distance >> 27); }

// 2^-distance in steps of 2^-42; relative error below 2^-27 before that rounding. Monotone.
constexpr uint64_t WeightOf(uint64_t distance) {
  // ln(2)^i / i! in steps of 2^-32, rounded to nearest: the Taylor series of 2^x - 1 over [0, 1).
  constexpr uint32_t kTerm[] = {2977044472u, 1031764991u, 238388332u, 41309550u, 5726720u, 661577u,
                                65510u,      5676u,       437u,       30u,       2u};
  constexpr int kTerms = static_cast<int>(sizeof(kTerm) / sizeof(kTerm[0]));
  if (distance == kTooFar) return 0;
  const auto fraction = static_cast<uint32_t>(distance);
  uint64_t mantissa = uint64_t{1} << 33;  // 2 * 2^-fraction, in steps of 2^-32
  if (fraction != 0) {
    const uint64_t x = 0u - fraction;
    uint64_t sum = 0;
    for (int i = kTerms - 1; i >= 0; --i) sum = (sum + kTerm[i]) * x >> 32;
    mantissa = (uint64_t{1} << 32) + sum;
  }
  return (mantissa << (kWeightBits - 33)) >> (distance >> 32);
}

// Top-p as transformers has it: from the least likely up, tokens are dropped while their running
// sum stays within 1 - top_p of the whole. In other words a candidate stays while the weight before
// it is below this goal; the first always stays.
constexpr uint64_t TopPGoal(uint64_t total, float top_p) {
  const double dropped = (1. - static_cast<double>(top_p)) * static_cast<double>(total);
  if (!(dropped > 0.)) return total;
  if (dropped >= static_cast<double>(total)) return 1;
  const auto drop = static_cast<uint64_t>(dropped);
  return drop < total ? total - drop : 1;
}

// The least weight that min-p keeps: min_p times the best one's, rounded up.
constexpr uint64_t MinPWeight(float min_p) {
  if (!(min_p > 0.f)) return 0;
  if (min_p >= 1.f) return kMaxWeight;
  const double least = static_cast<double>(min_p) * static_cast<double>(kMaxWeight);
  const auto floor = static_cast<uint64_t>(least);
  return floor + (static_cast<double>(floor) < least ? 1 : 0);
}

// A uniform integer in [0, total) for one draw of one request; 64 random bits, so its bias is below
// total / 2^64.
constexpr uint64_t DrawTarget(const SamplingParams& p, int32_t draw_index, uint64_t total) {
  const Philox4x32 random =
      Philox({{static_cast<uint32_t>(draw_index), 0, 0, 0}}, p.seed_low, p.seed_high);
  const uint64_t bits = uint64_t{random.word[1]} << 32 | random.word[0];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * total) >> 64);
}

// Where the logit of (row, id) lies.
constexpr int64_t LogitOffset(const LogitsView& view, int64_t row, int64_t id) {
  return ((id / view.width) * view.row_capacity + row) * view.width + id % view.width;
}

}  // namespace tessera
