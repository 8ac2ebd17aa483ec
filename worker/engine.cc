#include "worker/engine.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "model/weight_table.h"
#include "planner/step_capacity.h"

namespace tessera {
namespace {

constexpr int32_t kLargestGraph = 256;

int64_t ResultBytes(const ResultBuffers& r) {
  return r.max_sequences * 4 + r.logprob_bytes() + r.max_step_tokens * 4;
}

// A step of `rows` rows that touch no sequence: runs every op without leaving a trace.
StepDraft EmptyStep(int64_t rows, int32_t graph_rows, int64_t context) {
  StepDraft draft;
  PlannedSequence nobody = {.slot = -1, .sample = true};
  const int64_t length = graph_rows > 0 ? 1 : rows;
  nobody.tokens.assign(static_cast<size_t>(length), PrepareStepArgs::kPaddingToken);
  draft.sequences.push_back(std::move(nobody));
  draft.graph_rows = graph_rows;
  draft.max_context = static_cast<int32_t>(context);
  return draft;
}

}  // namespace

Engine::Engine(const EngineSpec& spec, const EnginePeers& peers, const Arena& arena,
               Runtime& runtime, const Ops& ops)
    : spec_(spec),
      peers_(peers),
      arena_(arena),
      runtime_(runtime),
      ops_(ops),
      capacity_(CapacityOf(spec.layout.limits)),
      results_(ResultsIn(arena_, spec.layout.limits)),
      last_of_lane_(static_cast<size_t>(Lanes(spec.layout.shard.shape)), -1) {}

Engine::~Engine() {
  for (Slot& slot : slots_) {
    if (slot.plan != nullptr) runtime_.FreePinned(slot.plan);
    if (slot.results != nullptr) runtime_.FreePinned(slot.results);
  }
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineSpec& spec,
                                                       const EnginePeers& peers, const Arena& arena,
                                                       Runtime& runtime, const Ops& ops) {
  std::unique_ptr<Engine> engine(new Engine(spec, peers, arena, runtime, ops));
  RETURN_IF_ERROR(engine->Init());
  return engine;
}

absl::Status Engine::Init() {
  exchange_ = std::make_unique<ResultExchange>(spec_.layout.shard, results_, peers_.side, runtime_);
  RETURN_IF_ERROR(InitSlots());
  return InitDecoder();
}

absl::Status Engine::Start() {
  RETURN_IF_ERROR(WarmUp());
  return CaptureGraphs();
}

absl::Status Engine::InitSlots() {
  ASSIGN_OR_RETURN(step_enqueued_, runtime_.NewEvent());
  for (size_t lane = 0; lane < last_of_lane_.size(); ++lane) {
    ASSIGN_OR_RETURN(std::unique_ptr<Event> moved, runtime_.NewEvent());
    results_moved_.push_back(std::move(moved));
  }
  slots_ = std::vector<Slot>(static_cast<size_t>(StepsInFlight(spec_.layout.shard.shape)) + 1);
  const auto rope_table_bytes =
      spec_.layout.config.head_size / 2 * static_cast<int64_t>(sizeof(float));
  for (Slot& slot : slots_) {
    ASSIGN_OR_RETURN(void* plan, runtime_.AllocatePinned(MaxPlanBytes(spec_.layout.limits)));
    slot.plan = static_cast<uint8_t*>(plan);
    ASSIGN_OR_RETURN(void* results,
                     runtime_.AllocatePinned(std::max(ResultBytes(results_), rope_table_bytes)));
    slot.results = static_cast<uint8_t*>(results);
    ASSIGN_OR_RETURN(slot.done, runtime_.NewEvent());
  }
  return absl::OkStatus();
}

absl::Status Engine::InitDecoder() {
  const LayoutInput& in = spec_.layout;
  LoadOptions load = spec_.load;
  load.matrix_dtype = MatrixDType(in);
  load.vector_dtype = in.dtype;
  ASSIGN_OR_RETURN(const std::vector<WeightSpec> table, WeightTable(in.config, in.shard));
  ASSIGN_OR_RETURN(const WeightMap weights,
                   LoadWeights(in.config, table, load, arena_, runtime_, ops_));

  const RopeTable rope = MakeRopeTable(in.config.rope, in.config.head_size);
  void* inv_freq = arena_.Find("inv_freq");
  // The first slot's pinned memory carries the table over; no step is under way yet.
  const size_t rope_bytes = rope.inv_freq.size() * sizeof(float);
  std::memcpy(slots_.front().results, rope.inv_freq.data(), rope_bytes);
  RETURN_IF_ERROR(runtime_.Copy(inv_freq, slots_.front().results, static_cast<int64_t>(rope_bytes),
                                runtime_.main_stream()));
  RETURN_IF_ERROR(runtime_.Synchronize(runtime_.main_stream()));

  DecoderSpec decoder;
  decoder.config = in.config;
  decoder.shard = in.shard;
  decoder.context = {.ops = &ops_,
                     .tp = peers_.tp,
                     .stream = runtime_.main_stream(),
                     .dtype = in.dtype,
                     .norm_eps = static_cast<float>(in.config.rms_norm_eps),
                     .workspace = arena_.Find("workspace"),
                     .workspace_bytes = arena_.SizeOf("workspace")};
  decoder.buffers = {.hidden = arena_.Find("hidden"),
                     .normed = arena_.Find("normed"),
                     .partial = arena_.Find("partial"),
                     .split = arena_.Find("split"),
                     .scratch = arena_.Find("scratch"),
                     .activated_row = arena_.Find("activated_row"),
                     .kv = arena_.Find("kv"),
                     .last_hidden = arena_.Find("last_hidden"),
                     .logits = static_cast<float*>(arena_.Find("logits")),
                     .inv_freq = static_cast<const float*>(inv_freq)};
  decoder.block_size = in.limits.block_size;
  decoder.blocks = in.kv_blocks;
  decoder.rope_scale = rope.scale;
  ASSIGN_OR_RETURN(Decoder built, Decoder::Create(decoder, weights));
  decoder_ = std::make_unique<Decoder>(std::move(built));
  return absl::OkStatus();
}

std::vector<int32_t> Engine::GraphRows(const EngineSpec& spec, Device device) {
  std::vector<int32_t> rows;
  if (device == Device::kCpu || !spec.graphs) return rows;
  const auto largest =
      static_cast<int32_t>(std::min<int64_t>(spec.layout.limits.max_sequences, kLargestGraph));
  for (int32_t r = 1; r < largest; r = r < 8 ? r * 2 : r < 64 ? r + 8 : r + 32) rows.push_back(r);
  rows.push_back(largest);
  return rows;
}

// First use of a library may allocate; it happens here, at the largest sizes.
absl::Status Engine::WarmUp() {
  if (runtime_.device() == Device::kCpu) return absl::OkStatus();
  const EngineLimits& limits = spec_.layout.limits;
  std::vector<uint8_t> plan;
  for (const int64_t rows : {int64_t{1}, limits.max_step_tokens}) {
    EncodePlan(EmptyStep(rows, 0, std::min(rows, limits.context)), plan);
    RETURN_IF_ERROR(Execute(plan));
    RETURN_IF_ERROR(Drain());
  }
  collectable_.clear();
  return absl::OkStatus();
}

absl::Status Engine::CaptureGraphs() {
  std::vector<uint8_t> bytes;
  for (const int32_t rows : GraphRows(spec_, runtime_.device())) {
    // Once without a graph, so that the shape's kernels are loaded and chosen before they are
    // captured.
    EncodePlan(EmptyStep(rows, rows, spec_.layout.limits.context), bytes);
    RETURN_IF_ERROR(Execute(bytes));
    RETURN_IF_ERROR(Drain());
    ASSIGN_OR_RETURN(const PlanView plan, PlanView::Parse(bytes, capacity_));
    ASSIGN_OR_RETURN(graphs_[rows], runtime_.Capture([&]() -> absl::Status {
      RETURN_IF_ERROR(decoder_->Forward(InputsOf(plan)));
      return spec_.layout.shard.last() ? SampleLogits(plan).status() : absl::OkStatus();
    }));
  }
  collectable_.clear();
  return absl::OkStatus();
}

const int32_t* Engine::OnDevice(int64_t offset) const {
  return reinterpret_cast<const int32_t*>(static_cast<const uint8_t*>(arena_.Find("plan")) +
                                          offset);
}

StepInputs Engine::InputsOf(const PlanView& plan) const {
  const PlanHeader& h = plan.header();
  const PlanOffsets& o = plan.offsets();
  return {.t = h.tokens,
          .s = h.sequences,
          .decode_sequences = h.decode_sequences,
          .max_query = h.max_query,
          .max_context = h.graph != 0 ? spec_.layout.limits.context : h.max_context,
          .token_ids = static_cast<const int32_t*>(arena_.Find("token_ids")),
          .positions = OnDevice(o.positions),
          .kv_index = static_cast<const int64_t*>(arena_.Find("kv_index")),
          .seq_slot = OnDevice(o.seq_slot),
          .q_start = OnDevice(o.q_start),
          .context = OnDevice(o.context),
          .block_table = static_cast<const int32_t*>(arena_.Find("block_table")),
          .max_blocks = spec_.layout.limits.max_blocks()};
}

absl::Status Engine::Execute(absl::Span<const uint8_t> bytes) {
  Slot& slot = slots_[static_cast<size_t>(executed_) % slots_.size()];
  if (executed_ >= static_cast<int64_t>(slots_.size())) RETURN_IF_ERROR(slot.done->Wait());
  TESSERA_CHECK(static_cast<int64_t>(bytes.size()) <= MaxPlanBytes(spec_.layout.limits), "plan of ",
                bytes.size(), " bytes");
  std::memcpy(slot.plan, bytes.data(), bytes.size());
  ASSIGN_OR_RETURN(const PlanView plan, PlanView::Parse({slot.plan, bytes.size()}, capacity_));
  slot.header = plan.header();

  RETURN_IF_ERROR(Prepare(plan));
  RETURN_IF_ERROR(Forward(plan));
  RETURN_IF_ERROR(step_enqueued_->Record(runtime_.main_stream()));
  RETURN_IF_ERROR(step_enqueued_->Delay(runtime_.side_stream()));
  const size_t index = static_cast<size_t>(executed_) % slots_.size();
  if (runtime_.device() == Device::kCpu && !spec_.layout.shard.last()) {
    unreceived_.push_back(index);
  } else {
    RETURN_IF_ERROR(MoveResults(slot));
  }

  newest_lane_ = slot.header.lane;
  last_of_lane_[static_cast<size_t>(newest_lane_)] = slot.header.number;
  if (spec_.leader) collectable_.push_back(index);
  ++executed_;
  return absl::OkStatus();
}

// The plan goes to the device, where tokens are resolved and KV places computed.
absl::Status Engine::Prepare(const PlanView& plan) {
  const ProfilerRange range(runtime_, "prepare");
  const PlanHeader& h = plan.header();
  const PlanOffsets& o = plan.offsets();
  const Stream& stream = runtime_.main_stream();
  RETURN_IF_ERROR(ReceiveUpTo(last_of_lane_[static_cast<size_t>(h.lane)]));
  // The ids that tokens refer to come from the last stage, on the side stream.
  if (!spec_.layout.shard.last())
    RETURN_IF_ERROR(results_moved_[static_cast<size_t>(h.lane)]->Delay(stream));
  RETURN_IF_ERROR(runtime_.Copy(arena_.Find("plan"), plan.bytes().data(),
                                static_cast<int64_t>(plan.bytes().size()), stream));
  RETURN_IF_ERROR(ResetSlots(plan));
  const EngineLimits& limits = spec_.layout.limits;
  const PrepareStepArgs prepare = {.token_source = OnDevice(o.token_source),
                                   .token_seq = OnDevice(o.token_seq),
                                   .positions = OnDevice(o.positions),
                                   .seq_slot = OnDevice(o.seq_slot),
                                   .block_patches = OnDevice(o.block_patches),
                                   .last_ids = results_.ids_of(h.lane),
                                   .block_table = static_cast<int32_t*>(arena_.Find("block_table")),
                                   .token_ids = static_cast<int32_t*>(arena_.Find("token_ids")),
                                   .kv_index = static_cast<int64_t*>(arena_.Find("kv_index")),
                                   .t = h.tokens,
                                   .s = h.sequences,
                                   .patches = h.block_patches,
                                   .last_rows = limits.max_sequences,
                                   .slots = limits.max_sequences,
                                   .max_blocks = limits.max_blocks(),
                                   .block_size = limits.block_size,
                                   .vocab = spec_.layout.config.vocab};
  RETURN_IF_ERROR(ops_.prepare_step(prepare, stream));
  if (h.any_penalties == 0 || !spec_.layout.shard.last()) return absl::OkStatus();
  const CountTokensArgs count = {
      .token_ids = prepare.token_ids,
      .token_seq = prepare.token_seq,
      .positions = prepare.positions,
      .seq_slot = prepare.seq_slot,
      .params = static_cast<const SamplingParams*>(arena_.Find("sampling_params")),
      .seen = {.table = static_cast<uint16_t*>(arena_.Find("seen_tokens")),
               .slots = limits.max_sequences,
               .vocab = spec_.layout.config.vocab},
      .t = h.tokens,
      .s = h.sequences};
  return ops_.count_tokens(count, stream);
}

absl::Status Engine::ResetSlots(const PlanView& plan) {
  if (!spec_.layout.shard.last()) return absl::OkStatus();
  const Stream& stream = runtime_.main_stream();
  auto* params = static_cast<SamplingParams*>(arena_.Find("sampling_params"));
  auto* seen = static_cast<uint16_t*>(arena_.Find("seen_tokens"));
  const int64_t vocab = spec_.layout.config.vocab;
  for (const SlotReset& reset : plan.slot_resets()) {
    if (reset.slot < 0 || reset.slot >= spec_.layout.limits.max_sequences)
      return absl::DataLossError(absl::StrCat("step plan: slot ", reset.slot));
    RETURN_IF_ERROR(
        runtime_.Copy(params + reset.slot, &reset.params, sizeof(SamplingParams), stream));
    if (reset.params.penalties != 0)
      RETURN_IF_ERROR(runtime_.Zero(seen + reset.slot * vocab, vocab * 2, stream));
  }
  return absl::OkStatus();
}

absl::Status Engine::Forward(const PlanView& plan) {
  const ProfilerRange range(runtime_, "forward");
  const PlanHeader& h = plan.header();
  const Shard& shard = spec_.layout.shard;
  const Stream& stream = runtime_.main_stream();
  const int64_t hidden_bytes = decoder_->hidden_bytes(h.tokens);
  const auto peer = [&](int64_t stage) {
    return static_cast<int>(stage * shard.shape.tp + shard.tp_rank);
  };
  if (!shard.first())
    RETURN_IF_ERROR(
        peers_.group->Recv(decoder_->hidden(), hidden_bytes, peer(shard.stage - 1), stream));
  const auto graph = h.graph != 0 ? graphs_.find(h.tokens) : graphs_.end();
  LogitsView logits;
  if (graph != graphs_.end()) {
    RETURN_IF_ERROR(graph->second->Launch(stream));
  } else {
    RETURN_IF_ERROR(decoder_->Forward(InputsOf(plan)));
  }
  if (!shard.last())
    return peers_.group->Send(decoder_->hidden(), hidden_bytes, peer(shard.stage + 1), stream);
  // The step before may still be copying its results out of the buffers written next.
  RETURN_IF_ERROR(results_moved_[static_cast<size_t>(newest_lane_)]->Delay(stream));
  if (h.targets > 0) RETURN_IF_ERROR(PromptLogprobs(plan));
  if (h.samples == 0) return absl::OkStatus();
  if (graph != graphs_.end()) {
    logits = decoder_->LogitsOf(h.sequences);
  } else {
    ASSIGN_OR_RETURN(logits, SampleLogits(plan));
  }
  return Sample(plan, logits);
}

absl::StatusOr<LogitsView> Engine::SampleLogits(const PlanView& plan) const {
  return decoder_->Logits(OnDevice(plan.offsets().sample_row), plan.header().sequences);
}

// The logits buffer holds max_sequences rows; wanted rows pass through it in chunks.
absl::Status Engine::PromptLogprobs(const PlanView& plan) {
  const int64_t chunk = spec_.layout.limits.max_sequences;
  for (int64_t begin = 0; begin < plan.header().targets; begin += chunk) {
    const int64_t count = std::min(chunk, plan.header().targets - begin);
    ASSIGN_OR_RETURN(const LogitsView logits,
                     decoder_->Logits(OnDevice(plan.offsets().target_row) + begin, count));
    const TokenLogprobsArgs args = {.logits = logits,
                                    .targets = OnDevice(plan.offsets().target_id) + begin,
                                    .out = results_.prompt_logprobs + begin};
    RETURN_IF_ERROR(ops_.token_logprobs(args, runtime_.main_stream()));
  }
  return absl::OkStatus();
}

absl::Status Engine::Sample(const PlanView& plan, const LogitsView& logits) {
  const ProfilerRange range(runtime_, "sample");
  const PlanHeader& h = plan.header();
  const SampleArgs args = {
      .logits = logits,
      .seq_slot = OnDevice(plan.offsets().seq_slot),
      .draw_index = OnDevice(plan.offsets().draw_index),
      .params = static_cast<const SamplingParams*>(arena_.Find("sampling_params")),
      .seen = {.table = static_cast<uint16_t*>(arena_.Find("seen_tokens")),
               .slots = spec_.layout.limits.max_sequences,
               .vocab = spec_.layout.config.vocab},
      .ids = results_.ids_of(h.lane),
      .logprobs = results_.logprobs,
      .top_ids = results_.top_ids,
      .top_logprobs = results_.top_logprobs,
      .all_greedy = h.all_greedy != 0,
      .any_logprobs = h.any_logprobs != 0,
      .workspace = arena_.Find("workspace"),
      .workspace_bytes = arena_.SizeOf("workspace")};
  return ops_.sample(args, runtime_.main_stream());
}

absl::Status Engine::ReceiveUpTo(int64_t number) {
  while (!unreceived_.empty() && slots_[unreceived_.front()].header.number <= number) {
    RETURN_IF_ERROR(MoveResults(slots_[unreceived_.front()]));
    unreceived_.pop_front();
  }
  return absl::OkStatus();
}

// A step's results to the other stages and, on the leader, to the host; on the side stream.
absl::Status Engine::MoveResults(Slot& slot) {
  const ProfilerRange range(runtime_, "move results");
  const PlanHeader& h = slot.header;
  const Stream& stream = runtime_.side_stream();
  RETURN_IF_ERROR(exchange_->Transfer(h));
  if (spec_.leader) {
    uint8_t* at = slot.results;
    if (h.samples != 0)
      RETURN_IF_ERROR(runtime_.Copy(at, results_.ids_of(h.lane), h.sequences * int64_t{4}, stream));
    at += results_.max_sequences * 4;
    if (h.samples != 0 && h.any_logprobs != 0)
      RETURN_IF_ERROR(runtime_.Copy(at, results_.logprobs, results_.logprob_bytes(), stream));
    at += results_.logprob_bytes();
    if (h.targets > 0)
      RETURN_IF_ERROR(runtime_.Copy(at, results_.prompt_logprobs, h.targets * int64_t{4}, stream));
  }
  RETURN_IF_ERROR(results_moved_[static_cast<size_t>(h.lane)]->Record(stream));
  return slot.done->Record(stream);
}

absl::StatusOr<bool> Engine::Ready() {
  if (collectable_.empty()) return false;
  if (!unreceived_.empty() && unreceived_.front() == collectable_.front()) return false;
  return slots_[collectable_.front()].done->Done();
}

absl::StatusOr<StepResult> Engine::Collect() {
  if (collectable_.empty()) return absl::FailedPreconditionError("no step is under way");
  Slot& slot = slots_[collectable_.front()];
  collectable_.pop_front();
  RETURN_IF_ERROR(ReceiveUpTo(slot.header.number));
  RETURN_IF_ERROR(slot.done->Wait());
  const PlanHeader& h = slot.header;
  const auto sequences = static_cast<size_t>(h.sequences);
  const auto slots = static_cast<size_t>(results_.max_sequences);
  const auto* ids = reinterpret_cast<const int32_t*>(slot.results);
  const auto* logprobs = reinterpret_cast<const float*>(ids + slots);
  const auto* top_ids = reinterpret_cast<const int32_t*>(logprobs + slots);
  const auto* top_logprobs = reinterpret_cast<const float*>(top_ids + slots * kMaxTopLogprobs);
  const float* prompt = top_logprobs + slots * kMaxTopLogprobs;
  StepResult result;
  result.number = h.number;
  if (h.samples != 0) result.ids = {ids, sequences};
  if (h.samples != 0 && h.any_logprobs != 0) {
    result.logprobs = {logprobs, sequences};
    result.top_ids = {top_ids, sequences * kMaxTopLogprobs};
    result.top_logprobs = {top_logprobs, sequences * kMaxTopLogprobs};
  }
  result.prompt_logprobs = {prompt, static_cast<size_t>(h.targets)};
  return result;
}

absl::Status Engine::Drain() {
  RETURN_IF_ERROR(ReceiveUpTo(std::numeric_limits<int64_t>::max()));
  RETURN_IF_ERROR(runtime_.Synchronize(runtime_.main_stream()));
  return runtime_.Synchronize(runtime_.side_stream());
}

}  // namespace tessera
