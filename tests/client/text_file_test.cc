#include "client/text_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include <absl/strings/str_cat.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

std::string Write(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(ReadTextFile, KeepsEveryByte) {
  const std::string text("a\r\n\0 \xC3\xA9 \xF0\x9F\x98\x80\n", 13);
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadTextFile(Write("keeps", text)));
  EXPECT_EQ(read, text);
}

TEST(ReadTextFile, EmptyFileIsEmptyText) {
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadTextFile(Write("empty", "")));
  EXPECT_EQ(read, "");
}

TEST(ReadTextFile, MissingFileIsNamed) {
  EXPECT_THAT(ReadTextFile("/no/such/file"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/file")));
}

TEST(ReadTextFile, FifoIsReadToTheEndOfItsWriter) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/fifo_", getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const std::string text(200'000, 'x');  // more than a pipe holds
  std::thread writer([&] { std::ofstream(path) << text; });
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadTextFile(path));
  writer.join();
  unlink(path.c_str());
  EXPECT_EQ(read, text);
}

TEST(ReadTextFile, NullDeviceIsEmptyText) {
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadTextFile("/dev/null"));
  EXPECT_EQ(read, "");
}

TEST(ReadTextFile, EndlessDeviceStopsAtTheLimit) {
  EXPECT_THAT(ReadTextFile("/dev/zero"),
              StatusIs(absl::StatusCode::kInvalidArgument, "/dev/zero: more than 66060288 bytes"));
}

TEST(ReadTextFile, FilePastTheLimitIsNotRead) {
  const std::string path = Write("large", "");
  ASSERT_EQ(truncate(path.c_str(), kMaxTextBytes + 1), 0);
  EXPECT_THAT(ReadTextFile(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("66060289 bytes, at most 66060288")));
}

TEST(ReadTextFile, DirectoryIsNamed) {
  EXPECT_THAT(ReadTextFile("/tmp"),
              StatusIs(absl::StatusCode::kInvalidArgument, "/tmp: not a regular file"));
}

TEST(ReadTextFile, SaysWhereItIsNotUtf8) {
  EXPECT_THAT(ReadTextFile(Write("latin1", "caf\xE9!")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 3 of 5")));
}

// Unicode 15, table 3-7: the well-formed byte sequences; one past each bound is ill-formed.
TEST(ValidUtf8Prefix, TakesTheBoundsOfTheTable) {
  for (const char* text : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(ValidUtf8Prefix(text), absl::string_view(text).size());
  }
}

TEST(ValidUtf8Prefix, RefusesWhatIsOutsideTheTable) {
  for (const char* text :
       {"\x80", "\xC1\xBF", "\xC2", "\xC2\x7F", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE1\x80",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE1\x80\xC0"}) {
    EXPECT_EQ(ValidUtf8Prefix(text), 0u);
  }
}

}  // namespace
}  // namespace tessera
