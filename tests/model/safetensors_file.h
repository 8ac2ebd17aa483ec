// Writing safetensors files, valid or not, in tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace tessera::testing {

// A directory of the running test's own, empty at first and removed with the object.
class TempDir {
 public:
  TempDir() {
    std::string pattern = ::testing::TempDir() + "/tessera_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
  }

 private:
  std::string path_;
};

// The file's bytes: length, header text, body. `length` may lie.
inline std::string SafetensorsBytes(const std::string& header, const std::string& body,
                                    uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  return bytes + header + body;
}
inline std::string SafetensorsBytes(const std::string& header, const std::string& body) {
  return SafetensorsBytes(header, body, header.size());
}

// One header entry.
inline nlohmann::json TensorHeader(const std::string& dtype, const nlohmann::json& shape,
                                   int64_t begin, int64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

}  // namespace tessera::testing
