// A directory with a tokenizer.json that a test writes.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <absl/status/statusor.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/tokenizer/tokenizer.h"

namespace tessera::testing {

// Removed with its files when the object goes.
class TokenizerDir {
 public:
  TokenizerDir() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = ::testing::TempDir() + "/tessera_" + info->test_suite_name() + "_" + info->name();
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TokenizerDir() { std::filesystem::remove_all(path_); }
  TokenizerDir(const TokenizerDir&) = delete;
  TokenizerDir& operator=(const TokenizerDir&) = delete;

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load() const { return Tokenizer::Load(path_); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const nlohmann::json& tokenizer) const {
    Write("tokenizer.json", tokenizer.dump());
    return Load();
  }

 private:
  std::string path_;
};

// A tokenizer.json of the letters a, b and the merge "ab"; every other stage is null.
inline nlohmann::json SmallTokenizer() {
  return nlohmann::json::parse(R"({
      "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
      "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
      "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})");
}

inline nlohmann::json AddedTokenJson(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace tessera::testing
