#include "worker/arena.h"

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<Arena>> Arena::Create(Runtime& runtime,
                                                     const std::vector<BufferSpec>& layout) {
  std::unique_ptr<Arena> arena(new Arena(runtime));
  for (const bool shared : {false, true}) {
    int64_t bytes = 0;
    for (const BufferSpec& b : layout) {
      if ((b.kind == BufferKind::kCommunication) == shared) bytes += b.bytes;
    }
    if (bytes == 0) continue;
    absl::StatusOr<void*> memory = runtime.AllocateDevice(bytes);
    if (!memory.ok()) {
      return absl::Status(memory.status().code(),
                          absl::StrCat("memory layout of ", bytes,
                                       " bytes does not fit: ", memory.status().message()));
    }
    arena->allocations_.push_back(*memory);
    arena->bytes_ += bytes;
    auto* at = static_cast<char*>(*memory);
    for (const BufferSpec& b : layout) {
      if ((b.kind == BufferKind::kCommunication) != shared) continue;
      arena->places_[b.name] = {at, b.bytes};
      if (b.kind != BufferKind::kKv || runtime.device() == Device::kCuda)
        RETURN_IF_ERROR(runtime.Zero(at, b.bytes, runtime.main_stream()));
      at += b.bytes;
    }
  }
  RETURN_IF_ERROR(runtime.Synchronize(runtime.main_stream()));
  return arena;
}

Arena::~Arena() {
  for (void* memory : allocations_) runtime_.FreeDevice(memory);
}

void* Arena::Find(absl::string_view name) const {
  const auto it = places_.find(name);
  return it == places_.end() ? nullptr : it->second.data;
}

int64_t Arena::SizeOf(absl::string_view name) const {
  const auto it = places_.find(name);
  return it == places_.end() ? 0 : it->second.bytes;
}

}  // namespace tessera
