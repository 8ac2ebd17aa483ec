#include "model/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/status_macros.h"
#include "model/file.h"
#include "model/json.h"
#include "model/safetensors.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;
constexpr size_t kMaxShards = 512;  // each keeps a file descriptor
constexpr absl::string_view kSingleFile = "model.safetensors";
constexpr absl::string_view kIndexFile = "model.safetensors.index.json";
constexpr absl::string_view kIndexEnding = ".safetensors.index.json";
constexpr absl::string_view kFileEnding = ".safetensors";

absl::Status ErrnoStatus(const std::string& path, int error) {
  const std::string message = absl::StrCat(path, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  if (error == EMFILE || error == ENFILE || error == ENOMEM)
    return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

// Fills dst[bytes] from `offset`; one call may return less than asked (2 GiB at most on Linux).
absl::Status ReadAt(int fd, const std::string& path, int64_t offset, int64_t bytes, char* dst) {
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(fd, dst + done, static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path, ": ends at byte ", offset + done, ", ",
                                              bytes - done, " more are needed"));
    }
    done += got;
  }
  return absl::OkStatus();
}

// Which tensor is in which file, as the index says. kDataLoss: not the JSON wanted, or a file name
// that is more than a name.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(absl::string_view text,
                                                              const std::string& source) {
  ASSIGN_OR_RETURN(const json index, ParseJson(text, source));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object())
    return absl::DataLossError(absl::StrCat(source, ": weight_map is absent or no object"));
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !name.empty() && name.find('/') == std::string::npos &&
                       name.find('\0') == std::string::npos && name != "." && name != "..";
    if (!plain) {
      return absl::DataLossError(absl::StrCat(source, ": weight_map has ", DescribeJson(file),
                                              " for ", DescribeJson(json(tensor)),
                                              ", must be the name of a file beside it"));
    }
    files.emplace(tensor, name);
  }
  return files;
}

// The only name in `dir` with that ending, or nothing: quantizers name files after their settings.
std::string OnlyFileEnding(const std::string& dir, absl::string_view ending) {
  std::string found;
  std::error_code error;
  for (std::filesystem::directory_iterator at(dir, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (!absl::EndsWith(name, ending)) continue;
    if (!found.empty()) return "";
    found = name;
  }
  return error ? "" : found;
}

}  // namespace

int64_t TensorEntry::rows() const {
  int64_t product = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
  return product;
}

int64_t TensorEntry::cols() const { return shape.empty() ? 1 : shape.back(); }

struct Checkpoint::File {
  File(std::string file_path, int descriptor) : path(std::move(file_path)), fd(descriptor) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(fd); }

  std::string path;
  int fd;
  std::map<std::string, std::string> metadata;
};

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

absl::Status Checkpoint::AddFile(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(path, errno);
  files_.push_back(std::make_unique<File>(path, fd));
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return ErrnoStatus(path, errno);
  if (!S_ISREG(info.st_mode))
    return absl::DataLossError(absl::StrCat(path, ": not a regular file"));

  std::string prefix(static_cast<size_t>(std::min<int64_t>(info.st_size, kSafetensorsPrefixBytes)),
                     '\0');
  RETURN_IF_ERROR(ReadAt(fd, path, 0, static_cast<int64_t>(prefix.size()), prefix.data()));
  ASSIGN_OR_RETURN(const int64_t length, ParseSafetensorsPrefix(prefix, info.st_size, path));
  std::string header(static_cast<size_t>(length), '\0');
  RETURN_IF_ERROR(ReadAt(fd, path, kSafetensorsPrefixBytes, length, header.data()));
  ASSIGN_OR_RETURN(SafetensorsHeader parsed, ParseSafetensorsHeader(header, info.st_size, path));
  files_.back()->metadata = std::move(parsed.metadata);
  for (TensorEntry& tensor : parsed.tensors) {
    tensor.file = static_cast<int>(files_.size()) - 1;
    std::string name = tensor.name;
    const auto [slot, added] = tensors_.emplace(std::move(name), std::move(tensor));
    if (!added) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", DescribeJson(json(slot->first)),
                                              " is in ", file_path(slot->second.file), " too"));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShards(const std::string& dir, const std::string& index_path) {
  const absl::StatusOr<std::string> text = ReadFile(index_path, kMaxIndexBytes);
  if (absl::IsInvalidArgument(text.status())) return absl::DataLossError(text.status().message());
  if (!text.ok()) return text.status();
  ASSIGN_OR_RETURN(const auto files, ParseIndex(*text, index_path));
  std::set<std::string> names;
  for (const auto& [tensor, file] : files) names.insert(file);
  if (names.empty() || names.size() > kMaxShards) {
    return absl::DataLossError(
        absl::StrCat(index_path, ": names ", names.size(), " files, must be 1 to ", kMaxShards));
  }
  for (const std::string& name : names) RETURN_IF_ERROR(AddFile(absl::StrCat(dir, "/", name)));
  for (const auto& [tensor, file] : files) {
    const auto found = tensors_.find(tensor);
    const bool there =
        found != tensors_.end() && file_path(found->second.file) == absl::StrCat(dir, "/", file);
    if (!there) {
      return absl::DataLossError(absl::StrCat(index_path, ": tensor ", DescribeJson(json(tensor)),
                                              " is not in ", DescribeJson(json(file))));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) {
  Checkpoint checkpoint;
  const std::string single = absl::StrCat(dir, "/", kSingleFile);
  const std::string index = absl::StrCat(dir, "/", kIndexFile);
  if (::access(single.c_str(), F_OK) == 0) {
    RETURN_IF_ERROR(checkpoint.AddFile(single));
  } else if (::access(index.c_str(), F_OK) == 0) {
    RETURN_IF_ERROR(checkpoint.AddShards(dir, index));
  } else if (const std::string other = OnlyFileEnding(dir, kIndexEnding); !other.empty()) {
    RETURN_IF_ERROR(checkpoint.AddShards(dir, absl::StrCat(dir, "/", other)));
  } else if (const std::string file = OnlyFileEnding(dir, kFileEnding); !file.empty()) {
    RETURN_IF_ERROR(checkpoint.AddFile(absl::StrCat(dir, "/", file)));
  } else {
    return absl::NotFoundError(
        absl::StrCat(dir, ": has neither ", kSingleFile, " nor ", kIndexFile));
  }
  return checkpoint;
}

absl::StatusOr<const TensorEntry*> Checkpoint::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  return absl::NotFoundError(
      absl::StrCat("tensor ", DescribeJson(json(std::string(name))), " is not in the checkpoint"));
}

const std::string& Checkpoint::file_path(int file) const {
  TESSERA_CHECK(file >= 0 && static_cast<size_t>(file) < files_.size(), "file=", file);
  return files_[static_cast<size_t>(file)]->path;
}

const std::map<std::string, std::string>& Checkpoint::metadata(int file) const {
  TESSERA_CHECK(file >= 0 && static_cast<size_t>(file) < files_.size(), "file=", file);
  return files_[static_cast<size_t>(file)]->metadata;
}

absl::Status Checkpoint::Read(const TensorEntry& tensor, const TensorBlock& block,
                              void* dst) const {
  const std::string& path = file_path(tensor.file);
  const bool inside = 0 <= block.row_begin && block.row_begin <= block.row_end &&
                      block.row_end <= tensor.rows() && 0 <= block.col_begin &&
                      block.col_begin <= block.col_end && block.col_end <= tensor.cols();
  if (!inside) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor ", tensor.name, ": rows ", block.row_begin, " to ",
                     block.row_end, ", columns ", block.col_begin, " to ", block.col_end, " of [",
                     tensor.rows(), ", ", tensor.cols(), "]"));
  }
  const int fd = files_[static_cast<size_t>(tensor.file)]->fd;
  const int64_t element = SizeOf(tensor.dtype);
  const int64_t rows = block.row_end - block.row_begin;
  const int64_t width = (block.col_end - block.col_begin) * element;
  const int64_t pitch = tensor.cols() * element;
  if (rows == 0 || width == 0) return absl::OkStatus();
  const int64_t first = tensor.offset + block.row_begin * pitch + block.col_begin * element;
  auto* out = static_cast<char*>(dst);
  if (width == pitch) return ReadAt(fd, path, first, rows * pitch, out);
  for (int64_t row = 0; row < rows; ++row)
    RETURN_IF_ERROR(ReadAt(fd, path, first + row * pitch, width, out + row * width));
  return absl::OkStatus();
}

}  // namespace tessera
