#include "coordinator/model_source.h"

#include <filesystem>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::StatusIs;

std::string Data(const std::string& name) { return absl::StrCat(TESSERA_TEST_DATA, "/", name); }

TEST(FindModelDir, EmptyDirectoryMeansTheModelsName) {
  const ModelSources sources = {.dirs = {{"m", Data("tiny-qwen2")}}};
  ASSERT_OK_AND_ASSIGN(const std::string dir, FindModelDir("", "m", sources));
  EXPECT_THAT(dir, EndsWith("/tiny-qwen2"));
}

TEST(FindModelDir, NamesAreLookedUpAmongTheConfigs) {
  const ModelSources sources = {.configs_dir = TESSERA_TEST_DATA};
  ASSERT_OK_AND_ASSIGN(const std::string dir, FindModelDir("tiny-qwen2", "m", sources));
  EXPECT_THAT(dir, EndsWith("/tiny-qwen2"));
}

TEST(FindModelDir, UnknownNamesAreNotFoundAndTheKnownOnesListed) {
  const ModelSources sources = {.dirs = {{"m", "/x"}}, .configs_dir = TESSERA_TEST_DATA};
  for (const std::string name : {"other", ".", "..", "a b"}) {
    EXPECT_THAT(FindModelDir(name, "", sources),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("[m]")));
  }
}

TEST(FindModelDir, PathsAreTakenBelowAnAllowedPrefixOnly) {
  ModelSources sources = {.allowed_prefixes = {TESSERA_TEST_DATA}};
  EXPECT_OK(FindModelDir(Data("tiny-qwen2"), "m", sources));
  for (const std::string& path :
       {Data("../support"), std::string("/"), std::string("/etc"), std::string("/no/where")}) {
    EXPECT_THAT(FindModelDir(path, "m", sources),
                StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--allow-model-dir")));
  }
  sources.allowed_prefixes.clear();
  EXPECT_THAT(FindModelDir(Data("tiny-qwen2"), "m", sources),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("tiny-qwen2")));
}

TEST(FindModelDir, SymbolicLinksDoNotLeadOut) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(::testing::TempDir()) / "find_model_dir";
  fs::remove_all(root);
  fs::create_directories(root / "allowed");
  fs::create_directory_symlink(Data("tiny-qwen2"), root / "allowed" / "link");
  const ModelSources sources = {.allowed_prefixes = {(root / "allowed").string()}};
  EXPECT_THAT(FindModelDir((root / "allowed" / "link").string(), "m", sources),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("link")));
  fs::remove_all(root);
}

TEST(FindModelDir, RelativePathsAreInvalid) {
  const ModelSources sources = {.allowed_prefixes = {"/"}};
  for (const std::string& path :
       {std::string("a/b"), std::string("../x"), std::string("/a\0b", 4)}) {
    EXPECT_THAT(FindModelDir(path, "m", sources),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("absolute path")));
  }
}

TEST(FindModelDir, MissingDirectoryIsNotFound) {
  const ModelSources sources = {.allowed_prefixes = {"/"}};
  EXPECT_THAT(FindModelDir("/no/where", "m", sources),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/where")));
}

}  // namespace
}  // namespace tessera
