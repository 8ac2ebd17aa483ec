#include "worker/packed_source.h"

#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "common/float16.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/fill/fill_math.h"
#include "kernels/fill/random_fill.h"
#include "worker/convert.h"

namespace tessera {
namespace {

class CheckpointSource : public PackedSource {
 public:
  explicit CheckpointSource(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  absl::Status Values(const PackedPart& part, const TensorBlock& block,
                      uint32_t* words) const override {
    return Read(part.module.name + ".qweight", block, words);
  }

  absl::Status Zeros(const PackedPart& part, const TensorBlock& block,
                     uint32_t* words) const override {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint_.Find(part.module.name + ".qzeros"));
    RETURN_IF_ERROR(checkpoint_.Read(*tensor, block, words));
    const bool may_be_lost = !part.format.symmetric &&
                             part.format.zero_rule == ZeroRule::kMinusOne &&
                             checkpoint_.metadata(tensor->file).count("auto_gptq_version") > 0;
    const int64_t row_words = block.col_end - block.col_begin;
    for (int64_t row = 0; may_be_lost && row < block.row_end - block.row_begin; ++row) {
      if (!HasFullField(words + row * row_words, row_words, part.format.bits)) continue;
      if (warned_.exchange(true)) break;
      LogWarning(checkpoint_.file_path(tensor->file), ": tensor ", tensor->name,
                 " holds a zero point of 0, beside which AutoGPTQ loses those of other outputs; "
                 "quantize the model anew to have them right");
    }
    return absl::OkStatus();
  }

  bool HasZeros(const PackedPart& part) const override {
    return checkpoint_.Find(part.module.name + ".qzeros").ok();
  }

  absl::Status Scales(const PackedPart& part, const TensorBlock& block,
                      uint16_t* scales) const override {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint_.Find(part.module.name + ".scales"));
    const int64_t count = (block.row_end - block.row_begin) * (block.col_end - block.col_begin);
    if (tensor->dtype == DType::kF16) {
      RETURN_IF_ERROR(checkpoint_.Read(*tensor, block, scales));
    } else {
      std::vector<char> raw(static_cast<size_t>(count * SizeOf(tensor->dtype)));
      RETURN_IF_ERROR(checkpoint_.Read(*tensor, block, raw.data()));
      ConvertFloats(raw.data(), tensor->dtype, scales, DType::kF16, count);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (std::isfinite(F16ToFloat(scales[i]))) continue;
      return absl::DataLossError(absl::StrCat(checkpoint_.file_path(tensor->file), ": tensor ",
                                              tensor->name, " has a scale that is no finite f16"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Read(const std::string& name, const TensorBlock& block, void* dst) const {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint_.Find(name));
    return checkpoint_.Read(*tensor, block, dst);
  }

  // Whether a field of the stream of `bits` has all its bits set.
  static bool HasFullField(const uint32_t* words, int64_t count, int bits) {
    const uint64_t full = (uint64_t{1} << bits) - 1;
    for (int64_t bit = 0; bit + bits <= count * 32; bit += bits) {
      const int64_t word = bit / 32;
      const uint64_t next = word + 1 < count ? words[word + 1] : 0;
      if (((words[word] | next << 32) >> (bit % 32) & full) == full) return true;
    }
    return false;
  }

  const Checkpoint& checkpoint_;
  mutable std::atomic<bool> warned_{false};  // once a load is enough
};

uint64_t KeyOf(const PackedPart& part, const char* suffix) {
  const std::string name = part.module.name + suffix;
  return TensorKey(name.data(), static_cast<int64_t>(name.size()));
}

// 32 bits of the counter's hash: two draws of fill_math.h's 24.
uint32_t RandomWord(uint64_t key, int64_t index) {
  const auto draw = [&](uint64_t at) {
    return static_cast<uint32_t>((UnitFromCounter(key, at) + 1.f) * 0x1p23f);
  };
  const auto at = static_cast<uint64_t>(index) * 2;
  return draw(at) << 16 ^ draw(at + 1);
}

class DummySource : public PackedSource {
 public:
  absl::Status Values(const PackedPart& part, const TensorBlock& block,
                      uint32_t* words) const override {
    const QuantRow* row = FindQuantRow(part.format.method, part.format.bits);
    const int64_t cols = row->packing == QuantPacking::kColumns ? part.module.n / 8 : part.module.n;
    const uint64_t key = KeyOf(part, ".qweight");
    for (int64_t r = block.row_begin; r < block.row_end; ++r) {
      for (int64_t c = block.col_begin; c < block.col_end; ++c)
        *words++ = RandomWord(key, r * cols + c);
    }
    return absl::OkStatus();
  }

  // Zero points at one of the two middle values.
  absl::Status Zeros(const PackedPart& part, const TensorBlock& block,
                     uint32_t* words) const override {
    const int bits = part.format.bits;
    uint32_t ones = 0;
    for (int place = 0; place + bits <= 32; place += bits) ones |= uint32_t{1} << place;
    const uint32_t middle = ones * ((uint32_t{1} << (bits - 1)) - 1);
    const int64_t cols = part.module.n * bits / 32;
    const uint64_t key = KeyOf(part, ".qzeros");
    for (int64_t r = block.row_begin; r < block.row_end; ++r) {
      for (int64_t c = block.col_begin; c < block.col_end; ++c)
        *words++ = middle + (RandomWord(key, r * cols + c) & ones);
    }
    return absl::OkStatus();
  }

  bool HasZeros(const PackedPart& part) const override { return !part.format.symmetric; }

  absl::Status Scales(const PackedPart& part, const TensorBlock& block,
                      uint16_t* scales) const override {
    const double levels = std::exp2(part.format.bits);
    const double spread = std::sqrt((levels * levels - 1) / 12);  // of uniform integers
    const auto mean = static_cast<float>(1 / (spread * std::sqrt(double(part.module.k))));
    const uint64_t key = KeyOf(part, ".scales");
    for (int64_t r = block.row_begin; r < block.row_end; ++r) {
      for (int64_t c = block.col_begin; c < block.col_end; ++c) {
        const auto index = static_cast<uint64_t>(r * part.module.n + c);
        *scales++ = FloatToF16(FillValue(key, index, 0.5f * mean, mean));
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<PackedSource> NewCheckpointSource(const Checkpoint& checkpoint) {
  return std::make_unique<CheckpointSource>(checkpoint);
}

std::unique_ptr<PackedSource> NewDummySource() { return std::make_unique<DummySource>(); }

}  // namespace tessera
