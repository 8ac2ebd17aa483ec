#include "coordinator/model_record.h"

#include <algorithm>

#include "common/dtype.h"

namespace tessera {

absl::string_view Name(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return "LOADING";
    case ModelState::kReady:
      return "READY";
    case ModelState::kUnloading:
      return "UNLOADING";
    case ModelState::kFailed:
      return "FAILED";
  }
  return "";
}

ModelRank* FindRank(ModelRecord& record, int32_t rank) {
  const auto place = std::find_if(record.ranks.begin(), record.ranks.end(),
                                  [rank](const ModelRank& r) { return r.rank == rank; });
  return place == record.ranks.end() ? nullptr : &*place;
}

bool AllIn(const ModelRecord& record, RankPhase phase) {
  return std::all_of(record.ranks.begin(), record.ranks.end(),
                     [phase](const ModelRank& rank) { return rank.phase == phase; });
}

v1::LoadModelEvent ProgressEvent(const ModelRecord& record) {
  v1::LoadModelEvent event;
  event.set_state("LOADING");
  for (const ModelRank& rank : record.ranks) {
    event.set_loaded_bytes(event.loaded_bytes() + rank.loaded_bytes);
    event.set_total_bytes(event.total_bytes() + rank.total_bytes);
  }
  return event;
}

v1::LoadModelEvent ReadyEvent(const ModelRecord& record) {
  v1::LoadModelEvent event = ProgressEvent(record);
  event.set_state("READY");
  for (const ModelRank& rank : record.ranks) *event.add_memory() = rank.memory;
  return event;
}

v1::ModelInfo InfoOf(const ModelRecord& record) {
  const ModelFiles& files = *record.serving->spec().files;
  v1::ModelInfo info;
  info.set_name(record.name);
  info.set_state(std::string(Name(record.state)));
  info.set_architecture(files.config.architecture);
  // A GPU holds weights in the type it computes in; a CPU rank computes in float32 and keeps the
  // checkpoint's.
  const std::string& computed_in = record.placed.options.dtype();
  info.set_format(computed_in == LongName(DType::kF32) ? std::string(LongName(files.config.dtype))
                                                       : computed_in);
  info.set_context(record.serving->spec().context);
  info.set_vocab(files.config.vocab);
  info.set_has_tokenizer(files.text.tokenizer() != nullptr);
  info.set_chat_template(files.text.chat_template());
  return info;
}

v1::ModelStatus StatusOf(const ModelRecord& record) {
  v1::ModelStatus status;
  *status.mutable_info() = InfoOf(record);
  for (const ModelRank& rank : record.ranks) {
    status.add_ranks(rank.rank);
    if (rank.phase == RankPhase::kLoaded) *status.add_memory() = rank.memory;
  }
  status.set_tp(static_cast<int32_t>(record.placed.plan.shape.tp));
  status.set_pp(static_cast<int32_t>(record.placed.plan.shape.pp));
  const ServingStats stats = record.serving->stats();
  status.set_running(stats.engine.running());
  status.set_waiting(stats.engine.waiting());
  status.set_kv_blocks(record.placed.plan.kv_blocks);
  status.set_kv_blocks_free(stats.engine.kv_blocks_free());
  status.set_steps(stats.engine.steps());
  status.set_completed(stats.completed);
  return status;
}

}  // namespace tessera
