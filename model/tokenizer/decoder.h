// The `decoder` stage of tokenizer.json: turns tokens back into text, one token at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

class Decoder {
 public:
  // What has to be remembered between tokens. Copyable; belongs to one text.
  struct State {
    struct Step {
      int64_t count = 0;      // Metaspace, joining: tokens seen; Strip: characters it may still cut
      std::string pending{};  // ByteLevel: a broken character; ByteFallback: the run of byte tokens
    };
    std::vector<Step> steps;
  };

  // `value` is null (tokens are joined by spaces), ByteLevel, ByteFallback, Fuse, Metaspace,
  // Replace with a string pattern, Strip, or a Sequence of these. `source` names it in messages.
  // kInvalidArgument: a field has the wrong type or a count is negative. kUnimplemented: any other
  // type, Strip at the end of a text, or anything but Strip and Fuse behind Fuse or ByteLevel.
  static absl::StatusOr<Decoder> Parse(const nlohmann::json& value, absl::string_view source);

  State Start() const;

  // Appends to `*out` the text that is certain once `token` has come: whole characters only. Joined
  // over all tokens, and with Flush at the end, this is what the library's decode returns.
  // ByteFallback makes every byte of a run of byte tokens U+FFFD when the run is not valid UTF-8,
  // so that the text of such a run comes when the run ends.
  void Push(State* state, absl::string_view token, std::string* out) const;

  // Appends what is left, with U+FFFD for an incomplete character.
  void Flush(State* state, std::string* out) const;

  // Forgets pending whole characters, and what could not become one. For a text whose beginning has
  // been shown already.
  void DropPending(State* state) const;

  // The bytes that `token` adds to a text that has begun: one byte for a byte token, possibly part
  // of a character.
  std::string Bytes(absl::string_view token) const;

 private:
  struct Step {
    enum class Kind { kJoin, kByteLevel, kByteFallback, kFuse, kMetaspace, kReplace, kStrip };
    Kind kind;
    bool fused = false;     // all tokens before it count as one
    std::string pattern{};  // kReplace, kMetaspace, kStrip: what is replaced or cut
    std::string content{};  // kReplace: by what
    int64_t start = 0;      // kStrip: how many characters in front
    bool prefixed = true;   // kMetaspace: the first token's spaces are no spaces
  };
  absl::Status Append(const nlohmann::json& value, absl::string_view source);
  absl::Status AppendStep(Step step, absl::string_view type, absl::string_view source);
  void PushAt(size_t index, State* state, absl::string_view token, std::string* out) const;
  void EndRun(size_t index, State* state, std::string* out) const;

  std::vector<Step> steps_;
};

}  // namespace tessera
