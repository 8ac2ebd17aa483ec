#include "coordinator/model_record.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include "common/dtype.h"
#include "common/quant_format.h"

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
  const v1::ModelOptions& options = record.placed.options;
  const bool is_f32 = options.dtype() == LongName(DType::kF32);
  info.set_format(files.config.quant.method != QuantMethod::kNone ? NameOf(files.config.quant)
                  : is_f32 ? std::string(LongName(files.config.dtype))
                           : options.dtype());
  info.set_dtype(options.dtype());
  info.set_load_format(options.load_format());
  info.set_checkpoint(std::filesystem::path(options.model_dir()).filename().string());
  info.set_context(record.serving->spec().context);
  info.set_vocab(files.config.vocab);
  info.set_has_tokenizer(files.text.tokenizer() != nullptr);
  info.set_chat_template(files.text.chat_template());
  return info;
}

v1::ModelStatus StatusOf(const ModelRecord& record) {
  v1::ModelStatus status;
  *status.mutable_info() = InfoOf(record);
  if (record.state == ModelState::kFailed) {
    status.set_failure(std::string(record.failure.message()));
  } else {
    for (const ModelRank& rank : record.ranks) {
      status.add_ranks(rank.rank);
      if (rank.phase == RankPhase::kLoaded) *status.add_memory() = rank.memory;
    }
  }
  status.set_tp(static_cast<int32_t>(record.placed.plan.shape.tp));
  status.set_pp(static_cast<int32_t>(record.placed.plan.shape.pp));
  status.set_kv_blocks(record.placed.plan.kv_blocks);
  const ServingStats stats = record.serving->stats();
  status.set_completed(stats.completed);
  if (record.state != ModelState::kReady) return status;
  status.set_running(stats.engine.running());
  status.set_waiting(stats.engine.waiting());
  status.set_kv_blocks_free(stats.engine.kv_blocks_free());
  status.set_steps(stats.engine.steps());
  return status;
}

}  // namespace tessera
