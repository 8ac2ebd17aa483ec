// The kernels against the CPU's, byte for byte (repack_test.cc has those against the file formats).

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "common/align.h"
#include "kernels/gemm/copy_columns.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/gemm/repack.h"
#include "kernels/gemm/silu_mul.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using testing::DeviceArray;
using testing::FloatArray;
using ::testing::HasSubstr;
using testing::OpDevice;
using testing::RoundedTo;
using testing::SeededRandom;
using testing::StatusIs;

struct RepackCase {
  QuantPacking packing;
  int bits;
  int64_t n, k;
  bool lists;
};

class RepackGpu : public testing::GpuOpTest {
 protected:
  static std::vector<uint8_t> Run(OpDevice& on, const RepackCase& c) {
    SeededRandom random(7);
    const bool columns = c.packing == QuantPacking::kColumns;
    RepackArgs args = {.raw_rows = columns ? c.k : c.k * c.bits / 32,
                       .raw_stride = columns ? c.n / 8 : c.n,
                       .packing = c.packing,
                       .file_bits = c.bits,
                       .outputs = c.n,
                       .j_end = c.k,
                       .bits = c.bits == 8 ? 8 : 4,
                       .n = c.n,
                       .k = c.k,
                       .add = c.bits < 4 ? 8 - (1 << (c.bits - 1)) : 0};
    std::vector<uint32_t> words;
    for (int64_t i = 0; i < args.raw_rows * args.raw_stride; ++i)
      words.push_back(static_cast<uint32_t>(random.Bits()));
    std::vector<int32_t> inputs, rows;
    for (int64_t j = 0; j < c.k; ++j)
      inputs.push_back(j % 13 == 5 ? -1 : static_cast<int32_t>(random.Below(c.k)));
    for (int64_t i = 0; i < c.n; ++i) rows.push_back(static_cast<int32_t>(c.n - 1 - i));
    rows[static_cast<size_t>(c.n / 2)] = -1;
    const DeviceArray<uint32_t> raw = on.Upload(words);
    const DeviceArray<int32_t> input_list = on.Upload(inputs), row_list = on.Upload(rows);
    const DeviceArray<uint8_t> packed = on.Output<uint8_t>(c.n * PackedRowBytes(args.bits, c.k));
    args.raw = raw.data();
    args.values = packed.data();
    if (c.lists) {
      args.inputs = input_list.data();
      args.rows = row_list.data();
    }
    const absl::Status status =
        on.device() == Device::kCpu ? RepackCpu(args, on.stream()) : RepackCuda(args, on.stream());
    EXPECT_OK(status);
    return packed.Read();
  }
};

TEST_F(RepackGpu, WritesTheBytesThatTheCpuWrites) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool lists : {false, true}) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>(8, 32), {264, 352}, {72, 1152}}) {
        const RepackCase c = {QuantPacking::kRows, bits, n, k, lists};
        EXPECT_EQ(Run(gpu(), c), Run(cpu(), c)) << bits << " bits, " << n << " x " << k;
      }
    }
  }
}

TEST_F(RepackGpu, WritesTheBytesThatTheCpuWritesOfAwqFiles) {
  for (const bool lists : {false, true}) {
    const RepackCase c = {QuantPacking::kColumns, 4, 136, 416, lists};
    EXPECT_EQ(Run(gpu(), c), Run(cpu(), c));
  }
}

TEST_F(RepackGpu, SizesThatAreNoneAreInvalid) {
  EXPECT_THAT(RepackCuda({.outputs = -1}, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1 outputs")));
}

class ColumnOpsGpu : public testing::GpuOpTest {};

TEST_F(ColumnOpsGpu, CopiedRowsLieInWiderOnes) {
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const FloatArray x = gpu().Upload(dtype, {1, 2, 3, 4});
    const FloatArray y = gpu().Upload(dtype, std::vector<float>(6, 9.f));
    ASSERT_OK(CopyColumnsCuda(
        {.x = x.data(), .y = y.data(), .t = 2, .n = 2, .y_stride = 3, .dtype = dtype},
        gpu().stream()));
    EXPECT_EQ(y.Read(), (std::vector<float>{1, 2, 9, 3, 4, 9}));
  }
}

TEST_F(ColumnOpsGpu, RefuseWhatTheyDoNotKnow) {
  EXPECT_THAT(CopyColumnsCuda({.t = -1, .dtype = DType::kBf16}, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
  EXPECT_THAT(
      CopyColumnsCuda({.t = 1, .n = 4, .y_stride = 3, .dtype = DType::kF16}, gpu().stream()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("y_stride=3")));
  EXPECT_THAT(CopyColumnsCuda({.dtype = DType::kF32}, gpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("copy_columns")));
  EXPECT_THAT(SiluMulCuda({.t = -1}, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
}

}  // namespace
}  // namespace tessera
