// The `model` stage of tokenizer.json: byte-pair encoding of one piece of text at a time.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

inline constexpr int64_t kMaxTokenId = (int64_t{1} << 20) - 1;  // four times any known vocabulary

class BpeModel {
 public:
  // Buffers that Encode reuses from piece to piece; owned by the caller, one per thread.
  struct Workspace {
    struct Symbol {
      int32_t id;  // kMerged once it is part of the symbol before it
      int32_t previous, next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;  // of the left symbol
      int32_t merged_id;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
  };

  // `value` is the JSON of a BPE model; `source` names it in messages.
  // kInvalidArgument: a field has the wrong type. kUnimplemented: another model type, or dropout,
  // continuing_subword_prefix or end_of_word_suffix in use. kDataLoss: an id outside
  // [0, kMaxTokenId], an id used twice, a merge that is not two parts or whose parts or result are
  // not in the vocabulary, or an unk_token that is not.
  static absl::StatusOr<BpeModel> Parse(const nlohmann::json& value, absl::string_view source);

  // Appends the ids of `piece`, which is valid UTF-8 of at most 2^30 bytes. A character that is no
  // token becomes its bytes' tokens with byte_fallback, else the unknown token (one for a run of
  // such characters with fuse_unk), else nothing. O(n log n).
  void Encode(absl::string_view piece, Workspace* workspace, std::vector<int32_t>* ids) const;

  std::optional<int32_t> FindId(absl::string_view token) const;
  // Null when no token has this id.
  const std::string* FindToken(int32_t id) const;
  // How many tokens there are; ids need not be contiguous.
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  // One more than the largest id.
  int64_t id_end() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  struct Merge {
    int32_t rank;
    int32_t merged_id;
  };
  static constexpr int32_t kNone = -1;
  static uint64_t PairKey(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  static constexpr char32_t kDirectCharacters = 0x180;  // holds the byte-level alphabet

  absl::Status ReadVocabulary(const nlohmann::json& vocabulary, absl::string_view source);
  absl::Status ReadMerges(const nlohmann::json& merges, absl::string_view source);
  absl::Status AddMerge(absl::string_view left, absl::string_view right, size_t index,
                        absl::string_view source);
  void CacheIds();

  int32_t CharacterId(absl::string_view character, char32_t code_point) const;
  bool AppendByteTokens(absl::string_view character, Workspace* workspace) const;
  void ReadSymbols(absl::string_view piece, Workspace* workspace) const;
  void PushCandidate(const Workspace::Symbol& left, int32_t position, Workspace* workspace) const;
  void MergeSymbols(Workspace* workspace) const;

  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<std::optional<std::string>> tokens_;  // by id
  absl::flat_hash_map<uint64_t, Merge> merges_;     // by PairKey
  std::array<int32_t, kDirectCharacters> direct_;   // ids of one-character tokens; kNone
  std::array<int32_t, 256> byte_ids_;               // ids of <0x00> ... <0xFF>; kNone
  int32_t unk_id_ = kNone;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;  // a piece that is a token is that token
};

}  // namespace tessera
