// The answer of one Generate call, collected from its events, and its JSON form.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <nlohmann/json.hpp>

#include "proto/inference.pb.h"

namespace tessera {

// JSON whose numbers are fp32: they are written with the digits that read back as the same fp32,
// and keys keep their order. Infinities and NaN become null.
using FloatJson = nlohmann::basic_json<nlohmann::ordered_map, std::vector, std::string, bool,
                                       int64_t, uint64_t, float>;

struct ChoiceResult {
  std::vector<v1::GeneratedToken> tokens;
  std::string text;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  v1::Usage usage;
  v1::Timing timing;
  absl::Time first_token = absl::InfiniteFuture(), last_token = absl::InfinitePast();  // seen here
};

// What the request asked for.
struct WantedResult {
  int choices = 1;
  bool logprobs = false;
  bool prompt_logprobs = false;
};

class GenerateResult {
 public:
  // `started`: when the request goes out.
  explicit GenerateResult(const WantedResult& wanted, absl::Time started = absl::Now())
      : wanted_(wanted), started_(started), choices_(static_cast<size_t>(wanted.choices)) {}

  // Takes an event that came at `now`. kInternal: one of a choice that was not asked for.
  absl::Status Add(const v1::GenerateEvent& event, absl::Time now = absl::Now());
  // kInternal: a choice had no finish reason, so the stream broke off.
  absl::Status CheckFinished() const;
  // Gives unfinished choices the reason `cancelled`, the counts seen so far, and the timing of what
  // came by this side's clock; queue_ms stays unset, since only the coordinator could tell.
  void Cancel(absl::Time now = absl::Now());

  const std::vector<ChoiceResult>& choices() const { return choices_; }

  // The object that `tessera generate --json` prints (docs/cli.md). With more than one choice, each
  // choice's object lies under `choices`. Lists that were not asked for are empty.
  FloatJson ToJson() const;

 private:
  FloatJson ChoiceJson(const ChoiceResult& choice) const;
  WantedResult wanted_;
  absl::Time started_;
  std::vector<ChoiceResult> choices_;
  std::vector<int32_t> prompt_tokens_;
  std::vector<float> prompt_logprobs_;  // one fewer than the prompt's tokens
};

// "stop", "length", "cancelled"; "" while running.
absl::string_view Name(v1::FinishReason reason);

// One line of JSON; text that is not UTF-8 gets replacement characters.
std::string Dump(const FloatJson& json);

}  // namespace tessera
