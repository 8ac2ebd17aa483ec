// Finds which of many byte strings end at each position of a text, in one pass over it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

namespace tessera {

// An Aho-Corasick automaton (Aho and Corasick, "Efficient string matching", CACM 18, 1975).
// Stepping through n bytes takes O(n) whatever the patterns. Immutable once built; safe on several
// threads.
class PatternAutomaton {
 public:
  using State = int32_t;
  static constexpr State kStart = 0;
  static constexpr int32_t kNoPattern = -1;

  PatternAutomaton();

  // Patterns must not be empty and have at most 2^30 bytes together. Of equal patterns the first
  // counts.
  explicit PatternAutomaton(absl::Span<const absl::string_view> patterns);

  State Step(State state, char byte) const;

  // Index of the longest pattern that ends with the byte last stepped over, or kNoPattern.
  int32_t LongestMatch(State state) const { return nodes_[Index(state)].longest; }

  // Bytes of the longest beginning of a pattern that the text so far ends with.
  int64_t Depth(State state) const { return nodes_[Index(state)].depth; }

 private:
  struct Node {
    State fail = kStart;  // state of the longest proper suffix
    int32_t depth = 0;
    int32_t longest = kNoPattern;  // longest pattern among this node's string and its suffixes
  };
  static size_t Index(State state) { return static_cast<size_t>(state); }
  static uint64_t EdgeKey(State state, char byte) {
    return (static_cast<uint64_t>(state) << 8) | static_cast<uint8_t>(byte);
  }
  State Child(State state, char byte) const;  // kNoChild when there is none
  static constexpr State kNoChild = -1;

  std::vector<Node> nodes_;
  absl::flat_hash_map<uint64_t, State> edges_;  // of every node but the root
  std::array<State, 256> root_edges_;           // most steps are taken here
};

}  // namespace tessera
