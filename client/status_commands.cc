#include <cstdio>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "client/cluster_commands.h"
#include "client/connection.h"
#include "client/interrupt.h"
#include "client/request_flags.h"
#include "client/units.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr absl::Duration kStatusTimeout = absl::Seconds(30);

void Print(const ordered_json& json) {
  std::printf("%s\n", json.dump(-1, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

ordered_json InfoJson(const v1::ModelInfo& m) {
  return {{"name", m.name()},
          {"state", m.state()},
          {"architecture", m.architecture()},
          {"checkpoint", m.checkpoint()},
          {"load_format", m.load_format()},
          {"format", m.format()},
          {"dtype", m.dtype()},
          {"context", m.context()},
          {"vocab", m.vocab()},
          {"has_tokenizer", m.has_tokenizer()},
          {"chat_template", m.chat_template()}};
}

int RunModels(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::ListModelsResponse response;
  const auto context = connection->NewContext(kStatusTimeout);
  const CancelOnInterrupt cancel(context.get());
  const absl::Status status =
      ToAbsl(connection->inference().ListModels(context.get(), {}, &response), *context);
  if (!status.ok()) return Fail(status);
  if (flags.Switch("json")) {
    ordered_json models = ordered_json::array();
    for (const v1::ModelInfo& m : response.models()) models.push_back(InfoJson(m));
    Print({{"models", models}});
    return kExitOk;
  }
  for (const v1::ModelInfo& m : response.models())
    absl::PrintF("%-24s %-10s %s %s, context %d, vocabulary %d, tokenizer %s, chat template %s\n",
                 m.name(), m.state(), m.architecture(), m.format(), m.context(), m.vocab(),
                 m.has_tokenizer() ? "yes" : "no",
                 m.chat_template().empty() ? "none" : m.chat_template());
  return kExitOk;
}

ordered_json OrNull(bool known, int64_t value) {
  return known ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json StatusJson(const v1::GetStatusResponse& s) {
  ordered_json ranks = ordered_json::array(), models = ordered_json::array();
  for (const v1::RankStatus& r : s.ranks())
    ranks.push_back({{"rank", r.rank()},
                     {"host", r.host()},
                     {"device", r.device()},
                     {"driver_version", r.driver_version()},
                     {"cuda_version", r.runtime_version()},
                     {"commit", r.commit()},
                     {"total_bytes", r.total_bytes()},
                     {"free_bytes", r.free_bytes()},
                     {"model", r.model()}});
  for (const v1::ModelStatus& m : s.models()) {
    ordered_json json = InfoJson(m.info());
    json["ranks"] = std::vector<int32_t>(m.ranks().begin(), m.ranks().end());
    json["tp"] = m.tp();
    json["pp"] = m.pp();
    json["running"] = OrNull(m.has_running(), m.running());
    json["waiting"] = OrNull(m.has_waiting(), m.waiting());
    json["kv_blocks"] = m.kv_blocks();
    json["kv_blocks_free"] = OrNull(m.has_kv_blocks_free(), m.kv_blocks_free());
    json["steps"] = OrNull(m.has_steps(), m.steps());
    json["completed"] = m.completed();
    json["failure"] = m.failure();
    json["memory"] = ordered_json::array();
    for (const v1::RankMemory& memory : m.memory())
      json["memory"].push_back({{"rank", memory.rank()},
                                {"predicted_bytes", memory.predicted_bytes()},
                                {"measured_bytes", memory.measured_bytes()}});
    models.push_back(std::move(json));
  }
  return {{"version", s.version()},   {"commit", s.commit()},         {"draining", s.draining()},
          {"uptime_s", s.uptime_s()}, {"pool_ranks", s.pool_ranks()}, {"ranks", ranks},
          {"models", models}};
}

void PrintStatus(const v1::GetStatusResponse& s) {
  absl::PrintF("tessera %s, up %.0f s, %d ranks%s\n", s.version(), s.uptime_s(), s.pool_ranks(),
               s.draining() ? ", draining" : "");
  for (const v1::RankStatus& r : s.ranks())
    absl::PrintF("rank %d  %s  %s  %.2f of %.2f GiB free  %s\n", r.rank(), r.host(), r.device(),
                 GiB(r.free_bytes()), GiB(r.total_bytes()), r.model().empty() ? "idle" : r.model());
  for (const v1::ModelStatus& m : s.models()) {
    absl::PrintF("model %s  %s  ranks %s (tp %d x pp %d)  %d completed", m.info().name(),
                 m.info().state(), m.ranks().empty() ? "none" : absl::StrJoin(m.ranks(), ","),
                 m.tp(), m.pp(), m.completed());
    if (m.has_running()) {
      absl::PrintF("  %d running, %d waiting  %d of %d KV blocks free  %d steps", m.running(),
                   m.waiting(), m.kv_blocks_free(), m.kv_blocks(), m.steps());
    }
    absl::PrintF("%s%s\n", m.failure().empty() ? "" : "  ", m.failure());
    for (const v1::RankMemory& memory : m.memory())
      absl::PrintF("  rank %d: %.2f GiB predicted, %.2f GiB measured\n", memory.rank(),
                   GiB(memory.predicted_bytes()), GiB(memory.measured_bytes()));
  }
}

int RunStatus(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::GetStatusResponse response;
  const auto context = connection->NewContext(kStatusTimeout);
  const CancelOnInterrupt cancel(context.get());
  const absl::Status status =
      ToAbsl(connection->cluster().GetStatus(context.get(), {}, &response), *context);
  if (!status.ok()) return Fail(status);
  if (flags.Switch("json")) {
    Print(StatusJson(response));
  } else {
    PrintStatus(response);
  }
  return kExitOk;
}

int RunDrain(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::DrainRequest request;
  request.set_grace_ms(flags.Int("grace-ms").value_or(0));
  v1::DrainResponse response;
  const auto context = connection->NewContext(absl::Hours(1));
  const CancelOnInterrupt cancel(context.get());
  const absl::Status status =
      ToAbsl(connection->cluster().Drain(context.get(), request, &response), *context);
  return status.ok() ? kExitOk : Fail(status);
}

const FlagSpec kJson = {
    .name = "json", .kind = FlagKind::kSwitch, .help = "Print one JSON object", .fallback = "text"};

}  // namespace

Command ModelsCommand() {
  std::vector<FlagSpec> flags = {kJson};
  Append(flags, ConnectionFlags("30"));
  return {
      .name = "models", .summary = "List the models", .flags = std::move(flags), .run = RunModels};
}

Command StatusCommand() {
  std::vector<FlagSpec> flags = {kJson};
  Append(flags, ConnectionFlags("30"));
  return {.name = "status",
          .summary = "Ranks, models, memory and load of the cluster",
          .flags = std::move(flags),
          .run = RunStatus};
}

Command DrainCommand() {
  std::vector<FlagSpec> flags = {{.name = "grace-ms",
                                  .kind = FlagKind::kInt,
                                  .value = "MS",
                                  .help = "Milliseconds that running requests may take to end",
                                  .fallback = "30000",
                                  .min = 1,
                                  .max = 24 * 3600 * 1000}};
  Append(flags, ConnectionFlags("3600"));
  return {.name = "drain",
          .summary = "Finish running requests, then stop the coordinator",
          .flags = std::move(flags),
          .run = RunDrain};
}

}  // namespace tessera
