// The tensors of a safetensors checkpoint: one file, or shards with an index. Nothing in the files
// is trusted.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "common/dtype.h"

namespace tessera {

// Where one tensor lies.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int file = 0;        // index into the checkpoint's files
  int64_t offset = 0;  // bytes from the start of that file
  int64_t bytes = 0;

  // As a matrix: a vector of n is [1, n].
  int64_t rows() const;
  int64_t cols() const;
};

// A rectangle of a tensor seen as a matrix.
struct TensorBlock {
  int64_t row_begin = 0, row_end = 0, col_begin = 0, col_end = 0;
};

class Checkpoint {
 public:
  // Reads headers only: of model.safetensors, or the shards of its index; where neither is there,
  // of the one index or the one file of another name. kNotFound: none of them, or a shard is
  // missing (named). kDataLoss: any violation of the format (docs/formats.md lists them), with file
  // and tensor named. kUnimplemented: a dtype that is valid safetensors but none of ours.
  // kPermissionDenied, kResourceExhausted (no file descriptor), kUnavailable: what the system says.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  // kNotFound: no such tensor.
  absl::StatusOr<const TensorEntry*> Find(absl::string_view name) const;
  const std::map<std::string, TensorEntry, std::less<>>& tensors() const { return tensors_; }
  // The file's path, for messages.
  const std::string& file_path(int file) const;
  // What the file's writer says of it.
  const std::map<std::string, std::string>& metadata(int file) const;

  // Copies a block, raw bytes, row-major, rows contiguous, into dst[(row_end - row_begin) *
  // (col_end - col_begin) * SizeOf(dtype)]. Reads only the bytes it needs; safe from several
  // threads at once. kInvalidArgument: the block is outside the tensor. kDataLoss: the file ended
  // early. kUnavailable: read error.
  absl::Status Read(const TensorEntry& tensor, const TensorBlock& block, void* dst) const;

 private:
  struct File;
  Checkpoint();
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& dir, const std::string& index_path);
  std::vector<std::unique_ptr<File>> files_;
  std::map<std::string, TensorEntry, std::less<>> tensors_;
};

}  // namespace tessera
