#include "kernels/gemm/repack.h"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/packed_weight.h"
#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A file's [n, k] integers, and the words they are packed into by the rules of FORMATS.md.
struct FileWeight {
  int bits;
  int64_t n, k;
  std::vector<uint32_t> q;  // [k, n]

  FileWeight(int b, int64_t rows, int64_t cols) : bits(b), n(rows), k(cols) {
    uint32_t state = 1;
    for (int64_t i = 0; i < n * k; ++i) {
      state = state * 1664525 + 1013904223;
      q.push_back(state >> 16 & ((1u << bits) - 1));
    }
  }
  uint32_t At(int64_t row, int64_t col) const { return q[static_cast<size_t>(col * n + row)]; }

  // One stream of bits down each column, set bit by bit.
  std::vector<uint32_t> Rows() const {
    std::vector<uint32_t> words(static_cast<size_t>(k * bits / 32 * n), 0);
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t bit = 0; bit < k * bits; ++bit) {
        const uint32_t value = At(row, bit / bits) >> (bit % bits) & 1;
        words[static_cast<size_t>(bit / 32 * n + row)] |= value << (bit % 32);
      }
    }
    return words;
  }

  // Nibble i of a word is column [0, 2, 4, 6, 1, 3, 5, 7][i] of its eight.
  std::vector<uint32_t> Columns() const {
    constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    std::vector<uint32_t> words;
    for (int64_t col = 0; col < k; ++col) {
      for (int64_t row = 0; row < n; row += 8) {
        uint32_t word = 0;
        for (int i = 0; i < 8; ++i) word |= At(row + kOrder[i], col) << (4 * i);
        words.push_back(word);
      }
    }
    return words;
  }
};

class RepackTest : public ::testing::TestWithParam<int> {
 protected:
  RepackTest() : runtime_(NewRuntime({.device = Device::kCpu, .cpu_threads = 2}).value()) {}

  absl::Status Run(const RepackArgs& args) { return RepackCpu(args, runtime_->main_stream()); }

  // Reads packed[row, j] by the layout's own definition.
  static uint32_t Packed(const std::vector<uint8_t>& packed, const RepackArgs& a, int64_t row,
                         int64_t j) {
    const PackedPlace place = PackedPlaceOf(a.bits, j);
    const auto at = static_cast<size_t>(PackedRowAt(a.bits, a.k, row) + place.byte);
    return static_cast<uint32_t>(packed[at] >> place.shift) & ((1u << a.bits) - 1);
  }

  std::unique_ptr<Runtime> runtime_;
};

RepackArgs Whole(const FileWeight& file, const std::vector<uint32_t>& words,
                 std::vector<uint8_t>& packed) {
  const int bits = file.bits == 8 ? 8 : 4;
  packed.assign(static_cast<size_t>(file.n * PackedRowBytes(bits, file.k)), 0xee);
  return {.raw = words.data(),
          .raw_rows = static_cast<int64_t>(words.size()) / file.n,
          .raw_stride = file.n,
          .file_bits = file.bits,
          .outputs = file.n,
          .j_end = file.k,
          .values = packed.data(),
          .bits = bits,
          .n = file.n,
          .k = file.k};
}

TEST_P(RepackTest, EveryIntegerOfAGptqFileComesToItsPlace) {
  const FileWeight file(GetParam(), 24, 352);
  const std::vector<uint32_t> words = file.Rows();
  std::vector<uint8_t> packed;
  RepackArgs args = Whole(file, words, packed);
  args.add = args.bits == 4 ? 8 - (1 << (file.bits - 1)) : 0;
  ASSERT_OK(Run(args));
  for (int64_t n = 0; n < file.n; ++n) {
    for (int64_t j = 0; j < AlignUp(file.k, PackedBlock(args.bits)); ++j) {
      const uint32_t want = j < file.k ? file.At(n, j) + static_cast<uint32_t>(args.add) : 0;
      ASSERT_EQ(Packed(packed, args, n, j), want) << n << " " << j;
    }
  }
}

// Runs of columns from a block of the file that begins in another group: a rank's inputs [96, 352).
TEST_P(RepackTest, PiecesOfARanksInputsMakeTheWhole) {
  const FileWeight file(GetParam(), 16, 384);
  const std::vector<uint32_t> words = file.Rows();
  std::vector<uint8_t> packed;
  RepackArgs args = Whole(file, words, packed);
  args.k = 256;
  args.first_input = 96;
  args.raw_k = 96;
  args.raw += 96 * file.bits / 32 * file.n;
  for (int64_t j = 0; j < 256; j += 128) {
    args.j_begin = j;
    args.j_end = j + 128;
    ASSERT_OK(Run(args));
  }
  for (int64_t n = 0; n < file.n; ++n) {
    for (int64_t j = 0; j < 256; ++j) ASSERT_EQ(Packed(packed, args, n, j), file.At(n, 96 + j));
  }
}

TEST_P(RepackTest, ListsPutRowsAndInputsInAnyOrder) {
  const FileWeight file(GetParam(), 16, 128);
  const std::vector<uint32_t> words = file.Rows();
  std::vector<uint8_t> packed;
  RepackArgs args = Whole(file, words, packed);
  std::vector<int32_t> inputs, rows;
  for (int32_t j = 0; j < 128; ++j) inputs.push_back(j % 16 == 3 ? -1 : j * 37 % 128);
  for (int32_t c = 0; c < 16; ++c) rows.push_back(c % 2 == 0 ? c / 2 : -1);
  args.inputs = inputs.data();
  args.rows = rows.data();
  args.n = 8;
  ASSERT_OK(Run(args));
  for (int64_t n = 0; n < 8; ++n) {
    for (int64_t j = 0; j < 128; ++j) {
      const uint32_t want = j % 16 == 3 ? 0 : file.At(2 * n, j * 37 % 128);
      ASSERT_EQ(Packed(packed, args, n, j), want) << n << " " << j;
    }
  }
  EXPECT_EQ(packed[static_cast<size_t>(8 * PackedRowBytes(args.bits, args.k))], 0xee);
}

INSTANTIATE_TEST_SUITE_P(Bits, RepackTest, ::testing::Values(2, 3, 4, 8));

TEST_F(RepackTest, EveryIntegerOfAnAwqFileComesToItsPlace) {
  const FileWeight file(4, 24, 160);
  const std::vector<uint32_t> words = file.Columns();
  std::vector<uint8_t> packed;
  RepackArgs args = Whole(file, words, packed);
  args.packing = QuantPacking::kColumns;
  args.raw_rows = file.k;
  args.raw_stride = file.n / 8;
  ASSERT_OK(Run(args));
  for (int64_t n = 0; n < file.n; ++n) {
    for (int64_t j = 0; j < file.k; ++j)
      ASSERT_EQ(Packed(packed, args, n, j), file.At(n, j)) << n << " " << j;
  }
}

TEST_F(RepackTest, InputsAndRowsOutsideTheBlockAreSkipped) {
  const FileWeight file(4, 8, 128);
  const std::vector<uint32_t> words = file.Rows();
  std::vector<uint8_t> packed;
  RepackArgs args = Whole(file, words, packed);
  const std::vector<int32_t> inputs(128, 1 << 30), rows(8, 1 << 30);
  args.inputs = inputs.data();
  ASSERT_OK(Run(args));
  EXPECT_EQ(Packed(packed, args, 7, 5), 0u);
  args.rows = rows.data();
  EXPECT_OK(Run(args));
}

TEST_F(RepackTest, SizesThatAreNoneAreInvalid) {
  const FileWeight file(4, 8, 128);
  const std::vector<uint32_t> words = file.Rows();
  std::vector<uint8_t> packed;
  const RepackArgs good = Whole(file, words, packed);
  ASSERT_OK(Run(good));
  RepackArgs args = good;
  args.bits = 2;
  EXPECT_THAT(Run(args), StatusIs(kInvalid, HasSubstr("4 to 2 bits")));
  args = good;
  args.file_bits = 8;
  EXPECT_THAT(Run(args), StatusIs(kInvalid, HasSubstr("8 to 4 bits")));
  args = good;
  args.outputs = -1;
  EXPECT_THAT(Run(args), StatusIs(kInvalid, HasSubstr("-1 outputs")));
  args = good;
  args.j_begin = 16;
  EXPECT_THAT(Run(args), StatusIs(kInvalid, HasSubstr("columns 16 to 128")));
  args = good;
  args.j_end = 256;
  EXPECT_THAT(Run(args), StatusIs(kInvalid, HasSubstr("columns 0 to 256")));
}

}  // namespace
}  // namespace tessera
