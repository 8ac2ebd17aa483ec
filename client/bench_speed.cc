#include "client/bench_speed.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/time/clock.h>

#include "client/generate_call.h"
#include "client/generate_result.h"
#include "client/interrupt.h"
#include "client/units.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

template <typename Of>
double MedianOf(const std::vector<SpeedSample>& samples, Of of) {
  std::vector<double> values;
  for (const SpeedSample& sample : samples) values.push_back(of(sample));
  return Median(std::move(values));
}

absl::StatusOr<v1::GetStatusResponse> GetStatus(const Connection& connection) {
  const auto context = connection.NewContext(absl::Seconds(30));
  const CancelOnInterrupt cancel(context.get());
  v1::GetStatusResponse response;
  RETURN_IF_ERROR(ToAbsl(connection.cluster().GetStatus(context.get(), {}, &response), *context));
  return response;
}

v1::GenerateRequest RandomRequest(const SpeedSubject& subject, int64_t input_tokens,
                                  int64_t output_tokens, uint64_t seed) {
  v1::GenerateRequest request;
  request.set_model(subject.model);
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> id(0, static_cast<int32_t>(subject.vocab - 1));
  for (int64_t i = 0; i < input_tokens; ++i) request.mutable_token_ids()->add_ids(id(random));
  v1::SamplingOptions& sampling = *request.mutable_sampling();
  // All neutral: what generation_config.json asks for would be measured too.
  sampling.set_temperature(0);
  sampling.set_top_p(1);
  sampling.set_min_p(0);
  sampling.set_top_k(0);
  sampling.set_repetition_penalty(1);
  request.set_max_tokens(static_cast<int32_t>(output_tokens));
  request.set_choices(1);
  request.set_ignore_eos(true);
  return request;
}

}  // namespace

double SpeedRow::tokens_per_s() const {
  return MedianOf(samples, [&](const SpeedSample& s) {
    return static_cast<double>(output_tokens) / s.total_s;
  });
}

double SpeedRow::decode_tokens_per_s() const {
  if (output_tokens < 2) return 0;
  return MedianOf(samples, [&](const SpeedSample& s) {
    return s.decode_s > 0 ? static_cast<double>(output_tokens - 1) / s.decode_s : 0.0;
  });
}

double SpeedRow::ttft_ms() const {
  return MedianOf(samples, [](const SpeedSample& s) { return s.ttft_ms; });
}

absl::StatusOr<SpeedSubject> FindSubject(const Connection& connection, const std::string& model) {
  ASSIGN_OR_RETURN(const v1::GetStatusResponse status, GetStatus(connection));
  const auto found =
      std::find_if(status.models().begin(), status.models().end(),
                   [&](const v1::ModelStatus& m) { return m.info().name() == model; });
  if (found == status.models().end())
    return absl::NotFoundError(absl::StrCat("model \"", model, "\" is not loaded"));
  const v1::ModelInfo& info = found->info();
  if (info.state() != "READY")
    return absl::UnavailableError(absl::StrCat("model ", model, ": not ready, ", info.state()));
  SpeedSubject subject{.model = model,
                       .checkpoint = info.checkpoint(),
                       .load_format = info.load_format(),
                       .architecture = info.architecture(),
                       .format = info.format(),
                       .dtype = info.dtype(),
                       .version = status.version(),
                       .vocab = info.vocab(),
                       .context = info.context(),
                       .gpus = found->ranks_size(),
                       .tp = found->tp(),
                       .pp = found->pp()};
  if (subject.vocab < 1)
    return absl::InternalError(
        absl::StrCat("model \"", model, "\": vocabulary of ", subject.vocab));
  for (const v1::RankStatus& rank : status.ranks()) {
    if (rank.model() != model) continue;
    subject.commit = rank.commit();
    subject.device = rank.device();
    subject.driver = rank.driver_version();
    subject.cuda = rank.runtime_version();
    break;
  }
  for (const v1::RankMemory& memory : found->memory()) {
    subject.predicted_bytes = std::max(subject.predicted_bytes, memory.predicted_bytes());
    subject.measured_bytes = std::max(subject.measured_bytes, memory.measured_bytes());
  }
  return subject;
}

absl::StatusOr<SpeedSample> MeasureSpeed(const Connection& connection, const SpeedSubject& subject,
                                         int64_t input_tokens, int64_t output_tokens,
                                         uint64_t seed) {
  const v1::GenerateRequest request = RandomRequest(subject, input_tokens, output_tokens, seed);
  GenerateResult result(WantedResult{});
  const absl::Time start = absl::Now();
  absl::Time first = absl::InfiniteFuture();
  RETURN_IF_ERROR(RunGenerate(connection, connection.NewContext(absl::Hours(1)), request, result,
                              [&](const v1::GenerateEvent& event) {
                                if (event.tokens_size() > 0) first = std::min(first, absl::Now());
                              }));
  const absl::Time end = absl::Now();
  const auto seen = static_cast<int64_t>(result.choices()[0].tokens.size());
  if (seen != output_tokens)
    return absl::InternalError(absl::StrCat("the answer has ", seen, " tokens of ", output_tokens));
  return SpeedSample{
      .total_s = absl::ToDoubleSeconds(end - start),
      .ttft_ms = absl::ToDoubleMilliseconds(first - start),
      .decode_s = result.choices()[0].timing.tpot_ms() * static_cast<double>(seen - 1) / 1000};
}

std::string SpeedTable(const SpeedSubject& subject, const std::vector<SpeedRow>& rows) {
  std::string text = absl::StrFormat("%-20s %6s %12s %4s %10s %14s %10s %12s %11s\n", "model",
                                     "input", "quantization", "GPUs", "tokens/s", "decode tok/s",
                                     "TTFT ms", "GiB planned", "GiB measured");
  for (const SpeedRow& row : rows) {
    absl::StrAppend(&text,
                    absl::StrFormat("%-20s %6d %12s %4d %10.2f %14.2f %10.2f %12.2f %11.2f\n",
                                    subject.model, row.input_tokens, subject.format, subject.gpus,
                                    row.tokens_per_s(), row.decode_tokens_per_s(), row.ttft_ms(),
                                    GiB(subject.predicted_bytes), GiB(subject.measured_bytes)));
  }
  return text;
}

ordered_json SpeedJson(const SpeedSubject& subject, const std::vector<SpeedRow>& rows,
                       const std::string& command) {
  ordered_json list = ordered_json::array();
  for (const SpeedRow& row : rows) {
    ordered_json samples = ordered_json::array();
    for (const SpeedSample& s : row.samples)
      samples.push_back({{"total_s", s.total_s}, {"ttft_ms", s.ttft_ms}, {"decode_s", s.decode_s}});
    list.push_back({{"input_tokens", row.input_tokens},
                    {"output_tokens", row.output_tokens},
                    {"tokens_per_s", row.tokens_per_s()},
                    {"decode_tokens_per_s", row.decode_tokens_per_s()},
                    {"ttft_ms", row.ttft_ms()},
                    {"samples", samples}});
  }
  return {{"benchmark", "speed"},
          {"command", command},
          {"version", subject.version},
          {"commit", subject.commit},
          {"date", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone())},
          {"model", subject.model},
          {"checkpoint", subject.checkpoint},
          {"load_format", subject.load_format},
          {"architecture", subject.architecture},
          {"dtype", subject.dtype},
          {"quantization", subject.format},
          {"device", subject.device},
          {"driver", subject.driver},
          {"cuda", subject.cuda},
          {"context", subject.context},
          {"gpus", subject.gpus},
          {"tp", subject.tp},
          {"pp", subject.pp},
          {"predicted_bytes_per_gpu", subject.predicted_bytes},
          {"measured_bytes_per_gpu", subject.measured_bytes},
          {"rows", list}};
}

}  // namespace tessera
