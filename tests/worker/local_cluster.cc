#include "tests/worker/local_cluster.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "common/status_macros.h"
#include "kernels/runtime/runtime.h"
#include "parallel/loopback_communicator.h"
#include "parallel/plan_channel.h"
#include "parallel/self_communicator.h"
#include "planner/step_capacity.h"
#include "worker/engine.h"
#include "worker/scheduler.h"

namespace tessera::testing {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);

// One rank's own things.
struct Rank {
  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<Communicator> tp, group;
  std::unique_ptr<PlanChannel> channel;
  std::unique_ptr<Arena> arena;
  absl::Status status;
};

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const LocalClusterOptions& options,
                                                   LayoutInput layout, int rank, Rank& me) {
  const int64_t unit = options.device == Device::kCuda ? 16 : 8;
  ASSIGN_OR_RETURN(layout.shard, MakeShard(layout.config, {options.tp, options.pp}, rank, unit));
  ASSIGN_OR_RETURN(const DeviceFacts facts, me.runtime->Facts());
  layout.device = {.device = options.device, .sm_count = facts.sm_count};
  ASSIGN_OR_RETURN(const std::vector<BufferSpec> buffers, MemoryLayout(layout));
  ASSIGN_OR_RETURN(me.arena, Arena::Create(*me.runtime, buffers));
  const Ops* ops = options.ops;
  if (ops == nullptr) {
    ASSIGN_OR_RETURN(ops, OpsFor(options.device));
  }
  EngineSpec spec;
  spec.layout = layout;
  spec.leader = rank == 0;
  spec.graphs = options.graphs;
  spec.load = {.model_dir = options.model_dir, .dummy = options.dummy, .reader_threads = 2};
  const EnginePeers peers = {me.tp.get(), me.group.get(), me.group.get()};
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                   Engine::Create(spec, peers, *me.arena, *me.runtime, *ops));
  RETURN_IF_ERROR(engine->Start());
  return engine;
}

absl::Status Follow(Engine& engine, PlanChannel& channel) {
  for (;;) {
    ASSIGN_OR_RETURN(const absl::Span<const uint8_t> plan, channel.Next(kTimeout));
    if (reinterpret_cast<const PlanHeader*>(plan.data())->kind == PlanKind::kStop)
      return absl::OkStatus();
    RETURN_IF_ERROR(engine.Execute(plan));
  }
}

void Record(std::vector<SequenceUpdate>& updates, std::map<uint64_t, LocalResult>& results) {
  for (SequenceUpdate& u : updates) {
    LocalResult& r = results[u.id];
    for (SampledToken& t : u.tokens) r.tokens.push_back(std::move(t));
    if (!u.prompt_logprobs.empty()) r.prompt_logprobs = std::move(u.prompt_logprobs);
    r.finish = u.finish;
  }
  updates.clear();
}

absl::Status Lead(const LocalClusterOptions& options, const LayoutInput& layout,
                  std::vector<SequenceRequest> requests, Engine& engine, PlanChannel* channel,
                  std::map<uint64_t, LocalResult>& results) {
  const ParallelShape shape = {options.tp, options.pp};
  EngineSpec spec;
  spec.layout = layout;
  spec.graphs = options.graphs;
  Scheduler scheduler({.limits = layout.limits,
                       .kv_blocks = layout.kv_blocks,
                       .lanes = Lanes(shape),
                       .graph_rows = Engine::GraphRows(spec, options.device),
                       .now_unix_us = [] { return int64_t{1}; }});
  for (SequenceRequest& r : requests) RETURN_IF_ERROR(scheduler.Add(std::move(r)));
  std::vector<uint8_t> plan;
  std::vector<SequenceUpdate> updates;
  int64_t issued = 0;
  while (!scheduler.idle()) {
    if (scheduler.steps_in_flight() < StepsInFlight(shape)) {
      if (const std::optional<StepDraft> draft = scheduler.NextStep()) {
        EncodePlan(*draft, plan);
        if (channel != nullptr) RETURN_IF_ERROR(channel->Publish(plan));
        RETURN_IF_ERROR(engine.Execute(plan));
        issued = draft->number + 1;
        continue;
      }
    }
    ASSIGN_OR_RETURN(const StepResult result, engine.Collect());
    scheduler.Finish(result, updates);
    Record(updates, results);
  }
  if (channel == nullptr) return absl::OkStatus();
  EncodeStop(issued, plan);
  return channel->Publish(plan);
}

}  // namespace

std::vector<int32_t> LocalResult::ids() const {
  std::vector<int32_t> out;
  for (const SampledToken& t : tokens) out.push_back(t.id);
  return out;
}

SequenceRequest GreedyRequest(uint64_t id, std::vector<int32_t> prompt, int64_t max_tokens,
                              int logprobs) {
  SequenceRequest request;
  request.id = id;
  request.params.prompt_len = static_cast<int32_t>(prompt.size());
  request.params.logprobs = logprobs;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.logprobs = true;
  return request;
}

absl::StatusOr<std::map<uint64_t, LocalResult>> RunLocally(const LocalClusterOptions& options,
                                                           std::vector<SequenceRequest> requests) {
  LayoutInput layout;
  ASSIGN_OR_RETURN(layout.config, LoadModelConfig(options.model_dir));
  layout.dtype = options.dtype;
  layout.limits = {.context = options.context,
                   .max_sequences = options.max_sequences,
                   .max_step_tokens = options.max_step_tokens,
                   .block_size = options.block_size};
  layout.kv_blocks = options.kv_blocks > 0 ? options.kv_blocks
                                           : options.max_sequences * layout.limits.max_blocks();
  const int ranks = static_cast<int>(options.tp * options.pp);
  ASSIGN_OR_RETURN(const Ops* ops, OpsFor(options.device));
  std::vector<Rank> all(static_cast<size_t>(ranks));
  auto groups = NewLoopbackGroup(ranks, *ops);
  auto channels = NewLoopbackPlanChannels(ranks, {.max_plan_bytes = MaxPlanBytes(layout.limits)});
  for (int64_t stage = 0; stage < options.pp; ++stage) {
    auto tp = NewLoopbackGroup(static_cast<int>(options.tp), *ops);
    for (int64_t r = 0; r < options.tp; ++r) {
      Rank& rank = all[static_cast<size_t>(stage * options.tp + r)];
      rank.tp = std::move(tp[static_cast<size_t>(r)]);
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    ASSIGN_OR_RETURN(all[i].runtime,
                     NewRuntime({.device = options.device, .cpu_threads = options.threads}));
    if (options.pp > 1) all[i].group = std::move(groups[i]);
    if (ranks > 1) all[i].channel = std::move(channels[i]);
  }
  std::map<uint64_t, LocalResult> results;
  const auto run = [&](int rank) -> absl::Status {
    Rank& me = all[static_cast<size_t>(rank)];
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, MakeEngine(options, layout, rank, me));
    if (rank > 0) return Follow(*engine, *me.channel);
    return Lead(options, layout, std::move(requests), *engine, me.channel.get(), results);
  };
  std::vector<std::thread> threads;
  for (int rank = 1; rank < ranks; ++rank)
    threads.emplace_back([&, rank] { all[static_cast<size_t>(rank)].status = run(rank); });
  all[0].status = run(0);
  for (std::thread& t : threads) t.join();
  for (const Rank& rank : all) RETURN_IF_ERROR(rank.status);
  return results;
}

}  // namespace tessera::testing
