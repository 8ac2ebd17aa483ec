#include "model/tokenizer/bpe.h"

#include <algorithm>

#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr int32_t kMerged = -1;

// A heap with this order pops the lowest rank first, and the leftmost pair among equals.
bool PopsLater(const BpeModel::Workspace::Candidate& a, const BpeModel::Workspace::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void AppendSymbol(int32_t id, BpeModel::Workspace* workspace) {
  auto& symbols = workspace->symbols;
  const auto position = static_cast<int32_t>(symbols.size());
  symbols.push_back({id, position - 1, position + 1});
}

}  // namespace

std::optional<int32_t> BpeModel::FindId(absl::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* BpeModel::FindToken(int32_t id) const {
  if (id < 0 || id >= id_end()) return nullptr;
  const auto& token = tokens_[static_cast<size_t>(id)];
  return token ? &*token : nullptr;
}

void BpeModel::Encode(absl::string_view piece, Workspace* workspace,
                      std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto id = FindId(piece)) {
      ids->push_back(*id);
      return;
    }
  }
  ReadSymbols(piece, workspace);
  MergeSymbols(workspace);
  for (const Workspace::Symbol& symbol : workspace->symbols) {
    if (symbol.id != kMerged) ids->push_back(symbol.id);
  }
}

int32_t BpeModel::CharacterId(absl::string_view character, char32_t code_point) const {
  if (code_point < kDirectCharacters) return direct_[code_point];
  return FindId(character).value_or(kNone);
}

bool BpeModel::AppendByteTokens(absl::string_view character, Workspace* workspace) const {
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (!byte_fallback_) return false;
  for (const char byte : character) {
    if (id_of(byte) == kNone) return false;
  }
  for (const char byte : character) AppendSymbol(id_of(byte), workspace);
  return true;
}

void BpeModel::ReadSymbols(absl::string_view piece, Workspace* workspace) const {
  workspace->symbols.clear();
  // An unknown token is written when the next known character or the end comes, so that a run can
  // become one; byte tokens in between go before it, as the library has it.
  bool unknown_waits = false;
  for (size_t begin = 0; begin < piece.size();) {
    size_t end = begin;
    const char32_t code_point = NextCodePoint(piece, &end);
    const absl::string_view character = piece.substr(begin, end - begin);
    begin = end;
    const int32_t id = CharacterId(character, code_point);
    if (id != kNone) {
      if (unknown_waits) AppendSymbol(unk_id_, workspace);
      unknown_waits = false;
      AppendSymbol(id, workspace);
    } else if (!AppendByteTokens(character, workspace) && unk_id_ != kNone) {
      if (unknown_waits && !fuse_unk_) AppendSymbol(unk_id_, workspace);
      unknown_waits = true;
    }
  }
  if (unknown_waits) AppendSymbol(unk_id_, workspace);
}

void BpeModel::PushCandidate(const Workspace::Symbol& left, int32_t position,
                             Workspace* workspace) const {
  if (static_cast<size_t>(left.next) >= workspace->symbols.size()) return;
  const int32_t right_id = workspace->symbols[static_cast<size_t>(left.next)].id;
  const auto merge = merges_.find(PairKey(left.id, right_id));
  if (merge == merges_.end()) return;
  workspace->queue.push_back({merge->second.rank, position, merge->second.merged_id});
}

void BpeModel::MergeSymbols(Workspace* workspace) const {
  auto& symbols = workspace->symbols;
  auto& queue = workspace->queue;
  queue.clear();
  for (size_t i = 0; i < symbols.size(); ++i) {
    PushCandidate(symbols[i], static_cast<int32_t>(i), workspace);
  }
  std::make_heap(queue.begin(), queue.end(), PopsLater);
  while (!queue.empty()) {
    const Workspace::Candidate top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), PopsLater);
    queue.pop_back();
    Workspace::Symbol& left = symbols[static_cast<size_t>(top.position)];
    const auto right_position = static_cast<size_t>(left.next);
    if (left.id == kMerged || right_position >= symbols.size()) continue;
    Workspace::Symbol& right = symbols[right_position];
    // The pair may have changed since it was queued.
    const auto merge = merges_.find(PairKey(left.id, right.id));
    if (merge == merges_.end() || merge->second.merged_id != top.merged_id) continue;
    left.id = top.merged_id;
    left.next = right.next;
    right.id = kMerged;
    if (static_cast<size_t>(left.next) < symbols.size()) {
      symbols[static_cast<size_t>(left.next)].previous = top.position;
    }
    const auto push = [&](int32_t position) {
      const size_t before = queue.size();
      PushCandidate(symbols[static_cast<size_t>(position)], position, workspace);
      if (queue.size() != before) std::push_heap(queue.begin(), queue.end(), PopsLater);
    };
    if (left.previous >= 0) push(left.previous);
    push(top.position);
  }
}

}  // namespace tessera
