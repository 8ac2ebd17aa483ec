// What every CPU communicator must do, called by all ranks of a group, each in its own thread or
// process. Data come from a seed and the rank, so each rank can compute what all others brought.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "common/float16.h"
#include "kernels/comm/residual_add.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/ops.h"
#include "kernels/runtime/cpu_pool.h"
#include "parallel/communicator.h"
#include "tests/support/column_order.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {

// The ops that communicators use.
inline const Ops& CommunicatorOps() {
  static const Ops ops = [] {
    Ops o{};
    o.rms_norm = RmsNormCpu;
    o.residual_add = ResidualAddCpu;
    return o;
  }();
  return ops;
}

struct CpuStream {
  CpuPool pool{1};
  Stream stream{.device = Device::kCpu, .pool = &pool};
};

inline std::vector<float> RandomFloats(int seed, int rank, int64_t count) {
  std::mt19937 random(static_cast<uint32_t>(seed * 1000 + rank));
  std::normal_distribution<float> normal(0.f, 2.f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

inline std::vector<char> RandomBytes(int seed, int rank, int64_t bytes) {
  std::mt19937 random(static_cast<uint32_t>(seed * 1000 + rank));
  std::vector<char> values(static_cast<size_t>(bytes));
  for (char& v : values) v = static_cast<char>(random());
  return values;
}

// The sum over ranks of RandomFloats(seed, rank, count), left to right in rank order in fp32.
inline std::vector<float> SumInRankOrder(int seed, int ranks, int64_t count) {
  std::vector<float> sum = RandomFloats(seed, 0, count);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<float> part = RandomFloats(seed, r, count);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  return sum;
}

// Equal to the ordered fp32 sum on every rank is bit-equal across ranks.
inline void ExpectSumInRankOrder(Communicator& group, int64_t count) {
  CpuStream cpu;
  std::vector<float> data = RandomFloats(1, group.rank(), count);
  ASSERT_OK(group.AllReduceSum(data.data(), count, DType::kF32, cpu.stream));
  EXPECT_EQ(data, SumInRankOrder(1, group.size(), count));
}

// A sum of `size` fp32 values has an error of at most (size - 1) * 2^-24 of the sum of magnitudes.
inline void ExpectSumCloseToDouble(Communicator& group, int64_t count) {
  CpuStream cpu;
  std::vector<float> data = RandomFloats(2, group.rank(), count);
  ASSERT_OK(group.AllReduceSum(data.data(), count, DType::kF32, cpu.stream));
  std::vector<double> sum(data.size()), magnitude(data.size());
  for (int r = 0; r < group.size(); ++r) {
    const std::vector<float> part = RandomFloats(2, r, count);
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += part[i];
      magnitude[i] += std::abs(part[i]);
    }
  }
  for (size_t i = 0; i < sum.size(); ++i)
    ASSERT_LE(std::abs(data[i] - sum[i]), group.size() * std::ldexp(magnitude[i], -24)) << i;
}

// 16-bit sums are rounded once, at the end.
inline void ExpectBf16SumRoundedOnce(Communicator& group, int64_t count) {
  CpuStream cpu;
  auto part = [&](int rank) {
    std::vector<uint16_t> bits;
    for (const float v : RandomFloats(3, rank, count)) bits.push_back(FloatToBf16(v));
    return bits;
  };
  std::vector<float> sum(static_cast<size_t>(count));
  for (int r = 0; r < group.size(); ++r)
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += Bf16ToFloat(part(r)[i]);
  std::vector<uint16_t> data = part(group.rank());
  ASSERT_OK(group.AllReduceSum(data.data(), count, DType::kBf16, cpu.stream));
  for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(data[i], FloatToBf16(sum[i])) << i;
}

// y and residual against the formula in double; 1e-5 covers fp32 statistics over d <= 512.
inline void ExpectAllReduceNorm(Communicator& group, int64_t t, int64_t d) {
  CpuStream cpu;
  constexpr float kEps = 1e-6f;
  std::vector<float> partial = RandomFloats(4, group.rank(), t * d);
  const std::vector<float> before = RandomFloats(5, 0, t * d), weight = RandomFloats(6, 0, d);
  std::vector<float> residual = before, y(partial.size());
  ASSERT_OK(group.AllReduceNorm({.partial = partial.data(),
                                 .residual = residual.data(),
                                 .weight = weight.data(),
                                 .y = y.data(),
                                 .t = t,
                                 .d = d,
                                 .eps = kEps},
                                cpu.stream));
  const std::vector<float> sum = SumInRankOrder(4, group.size(), t * d);
  for (size_t row = 0; row < static_cast<size_t>(t); ++row) {
    const size_t start = row * static_cast<size_t>(d);
    double squares = 0;
    for (size_t i = start; i < start + static_cast<size_t>(d); ++i) {
      ASSERT_EQ(residual[i], before[i] + sum[i]) << i;
      squares += double{residual[i]} * residual[i];
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(d) + kEps);
    for (size_t i = 0; i < static_cast<size_t>(d); ++i)
      ASSERT_NEAR(y[start + i], weight[i] * residual[start + i] * scale, 1e-4) << start + i;
  }
}

// Copies of y in two orders are the plain y's bits.
inline void ExpectAllReduceNormInOrders(Communicator& group, int64_t t, int64_t d) {
  CpuStream cpu;
  const ColumnOrder orders[] = {RandomOrder(d, 1), RandomOrder(d, 2)};
  const std::vector<float> weight = RandomFloats(6, 0, d);
  const auto run = [&](const ColumnCopies& copies) {
    std::vector<float> partial = RandomFloats(4, group.rank(), t * d);
    std::vector<float> residual = RandomFloats(5, 0, t * d);
    std::vector<float> y(static_cast<size_t>(t * copies.Width(d)));
    EXPECT_OK(group.AllReduceNorm({.partial = partial.data(),
                                   .residual = residual.data(),
                                   .weight = weight.data(),
                                   .y = y.data(),
                                   .copies = copies,
                                   .t = t,
                                   .d = d,
                                   .eps = 1e-6f},
                                  cpu.stream));
    return y;
  };
  const std::vector<float> plain = run({});
  const std::vector<float> y = run(
      {{{orders[0].places.data(), orders[0].width()}, {orders[1].places.data(), orders[1].width()}},
       2});
  ExpectOrdered(y, 0, plain, orders[0], t);
  ExpectOrdered(y, t * orders[0].width(), plain, orders[1], t);
}

inline void ExpectResidualOnlyWithoutWeight(Communicator& group) {
  CpuStream cpu;
  constexpr int64_t kT = 3, kD = 40;
  std::vector<float> partial = RandomFloats(7, group.rank(), kT * kD);
  std::vector<float> residual = RandomFloats(8, 0, kT * kD), expected = residual;
  ASSERT_OK(group.AllReduceNorm(
      {.partial = partial.data(), .residual = residual.data(), .t = kT, .d = kD}, cpu.stream));
  const std::vector<float> sum = SumInRankOrder(7, group.size(), kT * kD);
  for (size_t i = 0; i < sum.size(); ++i) expected[i] += sum[i];
  EXPECT_EQ(residual, expected);
}

enum class Placement { kInPlace, kOutOfPlace };

inline void ExpectAllGather(Communicator& group, int64_t bytes, Placement placement) {
  CpuStream cpu;
  const std::vector<char> own = RandomBytes(9, group.rank(), bytes);
  std::vector<char> recv(own.size() * static_cast<size_t>(group.size()), 'x'), expected;
  for (int r = 0; r < group.size(); ++r) {
    const std::vector<char> part = RandomBytes(9, r, bytes);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  const char* send = own.data();
  if (placement == Placement::kInPlace) {
    char* slot = recv.data() + group.rank() * bytes;
    std::copy(own.begin(), own.end(), slot);
    send = slot;
  }
  ASSERT_OK(group.AllGather(send, recv.data(), bytes, cpu.stream));
  EXPECT_EQ(recv, expected);
}

inline void ExpectBroadcastFromEveryRoot(Communicator& group, int64_t bytes) {
  CpuStream cpu;
  for (int root = 0; root < group.size(); ++root) {
    std::vector<char> data = RandomBytes(10, group.rank(), bytes);
    ASSERT_OK(group.Broadcast(data.data(), bytes, root, cpu.stream));
    EXPECT_EQ(data, RandomBytes(10, root, bytes));
  }
}

// Each rank passes three messages of different sizes down the line, as pipeline stages do.
inline void ExpectMessagesInOrderDownTheLine(Communicator& group, int64_t bytes) {
  CpuStream cpu;
  for (int message = 0; message < 3; ++message) {
    const std::vector<char> expected = RandomBytes(11 + message, 0, bytes + message);
    std::vector<char> data = expected;
    const int64_t size = bytes + message;
    if (group.rank() > 0) {
      data.assign(data.size(), 'x');
      ASSERT_OK(group.Recv(data.data(), size, group.rank() - 1, cpu.stream));
      EXPECT_EQ(data, expected);
    }
    if (group.rank() + 1 < group.size())
      ASSERT_OK(group.Send(data.data(), size, group.rank() + 1, cpu.stream));
  }
}

inline void ExpectArgumentErrors(Communicator& group) {
  CpuStream cpu;
  using ::testing::_;
  const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument, _);
  float x = 0;
  const int n = group.size();
  EXPECT_THAT(group.AllReduceSum(&x, -1, DType::kF32, cpu.stream), invalid);
  EXPECT_THAT(group.AllReduceSum(&x, 1, DType::kI32, cpu.stream),
              StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_THAT(group.AllReduceNorm({.partial = &x, .residual = &x, .t = -1, .d = 1}, cpu.stream),
              invalid);
  EXPECT_THAT(group.AllReduceNorm({.partial = &x, .residual = &x, .weight = &x, .t = 1, .d = 1},
                                  cpu.stream),
              invalid);
  EXPECT_THAT(group.AllReduceNorm(
                  {.partial = &x, .residual = &x, .copies = {{}, 4}, .t = 0, .d = 1}, cpu.stream),
              invalid);
  EXPECT_THAT(group.AllGather(&x, &x, -1, cpu.stream), invalid);
  EXPECT_THAT(group.Send(&x, -1, 0, cpu.stream), invalid);
  EXPECT_THAT(group.Send(&x, 4, n, cpu.stream), invalid);
  EXPECT_THAT(group.Send(&x, 4, group.rank(), cpu.stream), invalid);
  EXPECT_THAT(group.Recv(&x, 4, -1, cpu.stream), invalid);
  EXPECT_THAT(group.Recv(&x, 4, n, cpu.stream), invalid);
  EXPECT_THAT(group.Broadcast(&x, 4, n, cpu.stream), invalid);
  EXPECT_THAT(group.Broadcast(&x, -4, 0, cpu.stream), invalid);
}

}  // namespace tessera::testing
