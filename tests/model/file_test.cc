#include "model/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::absl::StatusCode;
using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ReadFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = ::testing::TempDir() + "/tessera_file_" + info->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
    return dir_ + "/" + name;
  }
  std::string dir_;
};

TEST_F(ReadFileTest, ReturnsEveryByte) {
  const std::string bytes("a\0b\r\n\xff", 6);
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadFile(Write("f", bytes), 6));
  EXPECT_EQ(read, bytes);
}

TEST_F(ReadFileTest, EmptyFileIsEmpty) {
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadFile(Write("f", ""), 0));
  EXPECT_EQ(read, "");
}

TEST_F(ReadFileTest, MissingFileIsNotFoundNamingThePath) {
  EXPECT_THAT(ReadFile(dir_ + "/none", 10),
              StatusIs(StatusCode::kNotFound, HasSubstr(dir_ + "/none")));
}

TEST_F(ReadFileTest, LargerThanTheCapIsInvalidArgumentWithBothSizes) {
  EXPECT_THAT(ReadFile(Write("f", "1234567"), 6),
              StatusIs(StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("/f"), HasSubstr("7 bytes, at most 6"))));
}

TEST_F(ReadFileTest, FileThatMayNotBeReadIsPermissionDenied) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const std::string path = Write("f", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  EXPECT_THAT(ReadFile(path, 10), StatusIs(StatusCode::kPermissionDenied, HasSubstr(path)));
}

TEST_F(ReadFileTest, DirectoryIsInvalidArgument) {
  EXPECT_THAT(ReadFile(dir_, 10), StatusIs(StatusCode::kInvalidArgument, HasSubstr(dir_)));
}

TEST_F(ReadFileTest, FifoIsInvalidArgumentAndDoesNotWait) {
  const std::string path = dir_ + "/fifo";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(ReadFile(path, 10), StatusIs(StatusCode::kInvalidArgument, HasSubstr("regular")));
}

}  // namespace
}  // namespace tessera
