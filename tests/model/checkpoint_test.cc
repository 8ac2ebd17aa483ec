#include "model/checkpoint.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/model/safetensors_file.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using testing::StatusIs;
using testing::TensorHeader;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr absl::string_view kSingle = "model.safetensors";
constexpr absl::string_view kIndex = "model.safetensors.index.json";

// The bytes 0, 1, 2, ...
std::string Counting(size_t bytes) {
  std::string text(bytes, '\0');
  std::iota(text.begin(), text.end(), '\0');
  return text;
}

class CheckpointTest : public ::testing::Test {
 protected:
  // A 4 x 3 byte matrix "w" that holds 0..11, then "v" of two bytes.
  void WriteSingle() {
    const json header = {{"w", TensorHeader("U8", {4, 3}, 0, 12)},
                         {"v", TensorHeader("U8", {2}, 12, 14)}};
    dir_.Write(std::string(kSingle), SafetensorsBytes(header.dump(), Counting(14)));
  }

  // One tensor of four bytes.
  void WriteShard(const std::string& file, const std::string& tensor) {
    const json header = {{tensor, TensorHeader("U8", {4}, 0, 4)}};
    dir_.Write(file, SafetensorsBytes(header.dump(), Counting(4)));
  }

  void WriteIndex(const json& weight_map) {
    const json index = {{"metadata", {{"total_size", 8}}}, {"weight_map", weight_map}};
    dir_.Write(std::string(kIndex), index.dump());
  }

  absl::StatusOr<Checkpoint> Open() { return Checkpoint::Open(dir_.path()); }

  // Reads a block of "w".
  absl::StatusOr<std::vector<uint8_t>> ReadW(const TensorBlock& block) {
    absl::StatusOr<Checkpoint> checkpoint = Open();
    if (!checkpoint.ok()) return checkpoint.status();
    std::vector<uint8_t> bytes(12, 0xee);
    const absl::Status status =
        checkpoint->Read(*checkpoint->Find("w").value(), block, bytes.data());
    if (!status.ok()) return status;
    return bytes;
  }

  testing::TempDir dir_;
};

TEST_F(CheckpointTest, OpensASingleFile) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Open());
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  ASSERT_OK_AND_ASSIGN(const TensorEntry* tensor, checkpoint.Find("w"));
  EXPECT_THAT(tensor->shape, ElementsAre(4, 3));
  EXPECT_EQ(checkpoint.file_path(tensor->file), absl::StrCat(dir_.path(), "/", kSingle));
}

TEST_F(CheckpointTest, OpensShardsThroughTheIndex) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "b");
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Open());
  ASSERT_OK_AND_ASSIGN(const TensorEntry* b, checkpoint.Find("b"));
  EXPECT_THAT(checkpoint.file_path(b->file), HasSubstr("two.safetensors"));
  uint8_t bytes[4] = {};
  ASSERT_OK(checkpoint.Read(*b, {0, 1, 0, 4}, bytes));
  EXPECT_THAT(bytes, ElementsAre(0, 1, 2, 3));
}

TEST_F(CheckpointTest, FollowsSymbolicLinks) {
  WriteShard("blob", "w");
  std::filesystem::create_symlink(dir_.path() + "/blob", dir_.path() + "/model.safetensors");
  EXPECT_OK(Open());
}

TEST_F(CheckpointTest, ASingleFileWinsOverAnIndex) {
  WriteSingle();
  WriteIndex({{"a", "missing.safetensors"}});
  EXPECT_OK(Open());
}

TEST_F(CheckpointTest, StaysReadableWhenMoved) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(Checkpoint first, Open());
  const Checkpoint second = std::move(first);
  uint8_t bytes[2] = {};
  ASSERT_OK(second.Read(*second.Find("v").value(), {0, 1, 0, 2}, bytes));
  EXPECT_THAT(bytes, ElementsAre(12, 13));
}

TEST_F(CheckpointTest, EmptyDirectoryIsNotFound) {
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir_.path())));
}

TEST_F(CheckpointTest, MissingShardIsNotFoundAndNamed) {
  WriteShard("one.safetensors", "a");
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("two.safetensors")));
}

TEST_F(CheckpointTest, MissingTensorIsNotFound) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Open());
  EXPECT_THAT(checkpoint.Find("x"),
              StatusIs(absl::StatusCode::kNotFound, "tensor \"x\" is not in the checkpoint"));
}

TEST_F(CheckpointTest, DTypeThatIsNotOursIsUnimplemented) {
  const json header = {{"w", TensorHeader("F64", {1}, 0, 8)}};
  dir_.Write(std::string(kSingle), SafetensorsBytes(header.dump(), Counting(8)));
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("F64")));
}

TEST_F(CheckpointTest, TruncationAnywhereIsDataLoss) {
  WriteSingle();
  const std::string path = dir_.path() + "/model.safetensors";
  for (auto bytes = std::filesystem::file_size(path); bytes-- > 0;) {
    std::filesystem::resize_file(path, bytes);
    ASSERT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("model.safetensors"))) << bytes;
  }
}

TEST_F(CheckpointTest, OversizedHeaderLengthIsDataLoss) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, ~uint64_t{0}}) {
    dir_.Write(std::string(kSingle), SafetensorsBytes("{}", "", length));
    EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr(absl::StrCat("header of ", length))));
  }
}

TEST_F(CheckpointTest, TrailingBytesAreDataLoss) {
  dir_.Write(std::string(kSingle), SafetensorsBytes("{}", "x"));
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("1 bytes after the header")));
}

TEST_F(CheckpointTest, WhatIsNoFileIsDataLoss) {
  std::filesystem::create_directory(dir_.path() + "/model.safetensors");
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("not a regular file")));
}

TEST_F(CheckpointTest, APipeDoesNotBlock) {
  ASSERT_EQ(::mkfifo((dir_.path() + "/model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("not a regular file")));
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsDataLoss) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "a");
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  EXPECT_THAT(Open(),
              StatusIs(kDataLoss, AllOf(HasSubstr("\"a\" is in"), HasSubstr("one.safetensors"))));
}

TEST_F(CheckpointTest, ATensorThatItsShardLacksIsDataLoss) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "b");
  WriteIndex({{"a", "two.safetensors"}, {"b", "one.safetensors"}});
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("tensor \"a\" is not in \"two.safetensors\"")));
  WriteIndex({{"a", "one.safetensors"}, {"c", "two.safetensors"}});
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("tensor \"c\" is not in \"two.safetensors\"")));
}

TEST_F(CheckpointTest, AnIndexMayNotNameFilesElsewhere) {
  WriteShard("one.safetensors", "a");
  for (const json& file :
       {json("../one.safetensors"), json("/etc/passwd"), json(".."), json("."), json(""),
        json("sub/one.safetensors"), json(std::string("a\0b", 3)), json(3), json(nullptr)}) {
    WriteIndex({{"a", file}});
    EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("the name of a file beside it"))) << file;
  }
}

TEST_F(CheckpointTest, AnIndexThatIsNoneIsDataLoss) {
  for (const std::string text : {"", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {}}",
                                 "{\"weight_map\": {\"a\": \"x\", \"a\": \"x\"}}"}) {
    dir_.Write(std::string(kIndex), text);
    EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr(std::string(kIndex)))) << text;
  }
  dir_.Write(std::string(kIndex), std::string(100'000, '['));
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("100000 levels")));
}

TEST_F(CheckpointTest, AnIndexThatIsNoFileIsDataLoss) {
  std::filesystem::create_directory(dir_.path() + "/" + std::string(kIndex));
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("not a regular file")));
}

TEST_F(CheckpointTest, ALinkToItselfIsUnavailable) {
  WriteIndex({{"a", "loop"}});
  std::filesystem::create_symlink(dir_.path() + "/loop", dir_.path() + "/loop");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("loop")));
}

TEST_F(CheckpointTest, NoFreeDescriptorIsResourceExhausted) {
  WriteSingle();
  struct rlimit limit = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const struct rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = Open().status();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(dir_.path())));
}

TEST_F(CheckpointTest, AForbiddenFileIsPermissionDenied) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  WriteSingle();
  std::filesystem::permissions(dir_.path() + "/model.safetensors", std::filesystem::perms::none);
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(dir_.path())));
}

TEST_F(CheckpointTest, TooManyShardsAreDataLoss) {
  json weight_map;
  for (int i = 0; i < 513; ++i) weight_map[absl::StrCat("t", i)] = absl::StrCat("f", i);
  WriteIndex(weight_map);
  EXPECT_THAT(Open(), StatusIs(kDataLoss, HasSubstr("names 513 files")));
}

TEST_F(CheckpointTest, ReadsWholeTensors) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const auto bytes, ReadW({0, 4, 0, 3}));
  EXPECT_THAT(bytes, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
}

TEST_F(CheckpointTest, ReadsRows) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const auto bytes, ReadW({1, 3, 0, 3}));
  EXPECT_THAT(bytes, ElementsAre(3, 4, 5, 6, 7, 8, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee));
}

TEST_F(CheckpointTest, ReadsColumnsWithoutGaps) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const auto bytes, ReadW({1, 4, 1, 3}));
  EXPECT_THAT(bytes, ElementsAre(4, 5, 7, 8, 10, 11, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee));
}

TEST_F(CheckpointTest, EmptyBlocksReadNothing) {
  WriteSingle();
  for (const TensorBlock& block : {TensorBlock{2, 2, 0, 3}, {0, 4, 3, 3}, {4, 4, 3, 3}}) {
    ASSERT_OK_AND_ASSIGN(const auto bytes, ReadW(block));
    EXPECT_THAT(bytes, Each(0xee));
  }
}

TEST_F(CheckpointTest, OffsetsAndWidthsCountElements) {
  const json header = {{"w", TensorHeader("BF16", {2, 3}, 0, 12)}};
  dir_.Write(std::string(kSingle), SafetensorsBytes(header.dump(), Counting(12)));
  ASSERT_OK_AND_ASSIGN(const auto bytes, ReadW({0, 2, 1, 2}));
  EXPECT_THAT(bytes, ElementsAre(2, 3, 8, 9, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee));
}

TEST_F(CheckpointTest, BlocksOutsideTheTensorAreInvalid) {
  WriteSingle();
  for (const TensorBlock& block : {TensorBlock{0, 5, 0, 3},
                                   {0, 4, 0, 4},
                                   {-1, 4, 0, 3},
                                   {0, 4, -1, 3},
                                   {3, 2, 0, 3},
                                   {0, 4, 2, 1}}) {
    EXPECT_THAT(ReadW(block), StatusIs(absl::StatusCode::kInvalidArgument,
                                       AllOf(HasSubstr("tensor w"), HasSubstr("[4, 3]"))));
  }
}

TEST_F(CheckpointTest, AFileThatShrinksAfterOpenIsDataLoss) {
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Open());
  const std::string path = dir_.path() + "/model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);
  const TensorEntry& tensor = *checkpoint.Find("w").value();
  uint8_t bytes[12];
  EXPECT_THAT(checkpoint.Read(tensor, {0, 4, 0, 3}, bytes),
              StatusIs(kDataLoss, HasSubstr("1 more are needed")));
  EXPECT_OK(checkpoint.Read(tensor, {0, 3, 0, 3}, bytes));
}

TEST_F(CheckpointTest, ThreadsReadAtOnce) {
  constexpr int kThreads = 4;
  WriteSingle();
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Open());
  const TensorEntry& tensor = *checkpoint.Find("w").value();
  std::vector<int> wrong(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        uint8_t row[3] = {};
        const absl::Status status = checkpoint.Read(tensor, {t, t + 1, 0, 3}, row);
        if (!status.ok() || row[0] != 3 * t || row[2] != 3 * t + 2) ++wrong[static_cast<size_t>(t)];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, Each(0));
}

}  // namespace
}  // namespace tessera
