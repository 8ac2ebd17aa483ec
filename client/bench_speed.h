// Batch 1 speed, one request at a time, as benchmarks/results/ records it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "client/connection.h"

namespace tessera {

// Of one request, by the client's clock.
struct SpeedSample {
  double total_s = 0;
  double ttft_ms = 0;
  double decode_s = 0;  // first token to last, by the engine's clock
};

// Of one input length.
struct SpeedRow {
  int64_t input_tokens = 0, output_tokens = 0;
  std::vector<SpeedSample> samples;
  // Medians over the samples.
  double tokens_per_s() const;         // output tokens over the whole request
  double decode_tokens_per_s() const;  // output tokens but the first over first to last; 0 for one
  double ttft_ms() const;
};

// What is measured; from GetStatus.
struct SpeedSubject {
  std::string model;  // as requests call it
  std::string checkpoint, load_format, architecture, format, dtype;
  std::string version, commit;       // of the workers' program
  std::string device, driver, cuda;  // of the first rank; driver and cuda are empty on the CPU
  int64_t vocab = 0, context = 0;
  int64_t gpus = 0, tp = 0, pp = 0;
  int64_t predicted_bytes = 0, measured_bytes = 0;  // of the rank that has most
};

// kNotFound: no such model. kUnavailable: it is not ready.
absl::StatusOr<SpeedSubject> FindSubject(const Connection& connection, const std::string& model);

// Runs one greedy request of `input_tokens` random ids that goes on for `output_tokens` past any
// end-of-text token. kInternal: it ended earlier. Errors of Generate.
absl::StatusOr<SpeedSample> MeasureSpeed(const Connection& connection, const SpeedSubject& subject,
                                         int64_t input_tokens, int64_t output_tokens,
                                         uint64_t seed);

// The rows as a table for people, and as the record of docs/cli.md.
std::string SpeedTable(const SpeedSubject& subject, const std::vector<SpeedRow>& rows);
// `command`: the command line.
nlohmann::ordered_json SpeedJson(const SpeedSubject& subject, const std::vector<SpeedRow>& rows,
                                 const std::string& command);

}  // namespace tessera
