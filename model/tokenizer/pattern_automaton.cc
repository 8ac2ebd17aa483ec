#include "model/tokenizer/pattern_automaton.h"

#include <algorithm>
#include <numeric>

namespace tessera {

PatternAutomaton::PatternAutomaton() : nodes_(1) { root_edges_.fill(kNoChild); }

PatternAutomaton::PatternAutomaton(absl::Span<const absl::string_view> patterns)
    : PatternAutomaton() {
  struct Edge {
    State parent;
    char byte;
  };
  std::vector<Edge> edge_to = {{kStart, '\0'}};  // of each node
  for (size_t i = 0; i < patterns.size(); ++i) {
    State state = kStart;
    for (const char byte : patterns[i]) {
      State child = Child(state, byte);
      if (child == kNoChild) {
        child = static_cast<State>(nodes_.size());
        nodes_.push_back({.depth = nodes_[Index(state)].depth + 1});
        edge_to.push_back({state, byte});
        if (state == kStart) {
          root_edges_[static_cast<uint8_t>(byte)] = child;
        } else {
          edges_.emplace(EdgeKey(state, byte), child);
        }
      }
      state = child;
    }
    if (nodes_[Index(state)].longest == kNoPattern) {
      nodes_[Index(state)].longest = static_cast<int32_t>(i);
    }
  }
  // A suffix link leads to a shorter string, whose own link must be there first: go by depth.
  std::vector<State> by_depth(nodes_.size());
  std::iota(by_depth.begin(), by_depth.end(), kStart);
  std::stable_sort(by_depth.begin(), by_depth.end(), [this](State a, State b) {
    return nodes_[Index(a)].depth < nodes_[Index(b)].depth;
  });
  for (const State state : by_depth) {
    if (state == kStart) continue;
    Node& node = nodes_[Index(state)];
    const Edge edge = edge_to[Index(state)];
    if (edge.parent != kStart) node.fail = Step(nodes_[Index(edge.parent)].fail, edge.byte);
    if (node.longest == kNoPattern) node.longest = nodes_[Index(node.fail)].longest;
  }
}

PatternAutomaton::State PatternAutomaton::Child(State state, char byte) const {
  if (state == kStart) return root_edges_[static_cast<uint8_t>(byte)];
  const auto edge = edges_.find(EdgeKey(state, byte));
  return edge == edges_.end() ? kNoChild : edge->second;
}

PatternAutomaton::State PatternAutomaton::Step(State state, char byte) const {
  while (true) {
    const State child = Child(state, byte);
    if (child != kNoChild) return child;
    if (state == kStart) return kStart;
    state = nodes_[Index(state)].fail;
  }
}

}  // namespace tessera
