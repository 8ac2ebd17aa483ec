#include "worker/worker.h"

#include <unistd.h>

#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "worker/messages.h"

namespace tessera {
namespace {

constexpr int kExitFailed = 70;  // sysexits EX_SOFTWARE
constexpr absl::Duration kFlushTimeout = absl::Milliseconds(300);
constexpr absl::Duration kLook = absl::Seconds(1);  // how often a sleeping follower looks around
constexpr absl::Duration kStopGrace = absl::Seconds(10);  // for the leader's stop after a Shutdown
constexpr absl::Duration kProgressPeriod = absl::Milliseconds(200);

}  // namespace

Worker::Worker(WorkerOptions options, Runtime& runtime, const Ops& ops)
    : options_(std::move(options)),
      runtime_(runtime),
      ops_(ops),
      trace_(options_.trace_context > 0 ? std::make_unique<OpTrace>(ops, runtime) : nullptr),
      watchdog_([this](const std::string& what) { OnHang(what); }) {}

absl::Status Worker::Run() {
  ASSIGN_OR_RETURN(DeviceFacts facts, runtime_.Facts());
  if (runtime_.device() == Device::kCpu) {
    facts.total_bytes /= options_.local_ranks;
    facts.free_bytes /= options_.local_ranks;
  }
  ControlEvents events;
  events.on_command = [this](const internal::WorkerCommand& c) { OnCommand(c); };
  events.on_lost = [this](const absl::Status& why) { OnCoordinatorLost(why); };
  ASSIGN_OR_RETURN(
      control_, ControlLink::Connect(
                    options_.link,
                    RegisterOf(options_.pool_rank, options_.pool_ranks, runtime_.device(), facts),
                    steps_, std::move(events)));
  registered_.store(true);
  LogInfo("registered with ", options_.link.address, ", epoch ", control_->epoch());
  while (const std::unique_ptr<internal::LoadShard> command = NextLoad()) Serve(*command);
  leaving_.store(true);
  control_->Flush(kFlushTimeout);
  return absl::OkStatus();
}

void Worker::OnCommand(const internal::WorkerCommand& command) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (command.has_load()) loads_.push_back(command.load());
  if (command.has_shutdown()) {
    shutdown_ = true;
    leaving_.store(true);
  }
  const bool unload = command.has_unload() && command.unload().instance() == inbox_instance_;
  if (inbox_ != nullptr && (unload || shutdown_)) inbox_->Stop();
  changed_.notify_all();
}

void Worker::OnCoordinatorLost(const absl::Status& why) {
  if (leaving_.load()) return;
  Die(absl::StrCat("coordinator lost: ", why.ToString()));
}

void Worker::OnHang(const std::string& what) { Die(absl::StrCat(what, " does not end")); }

// No CUDA or NCCL destructor runs on this way out: they may wait for a peer that is gone.
void Worker::Die(const std::string& why) {
  LogError(why);
  if (registered_.load()) {
    internal::WorkerReport report;
    report.mutable_fatal()->set_message(why);
    control_->Report(std::move(report));
    control_->Flush(kFlushTimeout);
  }
  _exit(kExitFailed);
}

std::unique_ptr<internal::LoadShard> Worker::NextLoad() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return shutdown_ || !loads_.empty(); });
  if (shutdown_) return nullptr;
  auto load = std::make_unique<internal::LoadShard>(std::move(loads_.front()));
  loads_.pop_front();
  return load;
}

bool Worker::ShuttingDown() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return shutdown_;
}

void Worker::Serve(const internal::LoadShard& command) {
  const int64_t instance = command.instance();
  absl::Time last_progress = absl::InfinitePast();
  const auto progress = [&](int64_t loaded, int64_t total) {
    if (loaded < total && absl::Now() - last_progress < kProgressPeriod) return;
    last_progress = absl::Now();
    internal::WorkerReport report;
    internal::LoadProgress& p = *report.mutable_progress();
    p.set_instance(instance);
    p.set_loaded_bytes(loaded);
    p.set_total_bytes(total);
    control_->Report(std::move(report));
  };
  LogInfo("loading ", command.name(), " (instance ", instance, ")");
  absl::StatusOr<std::unique_ptr<LoadedModel>> model =
      LoadModel(command, {.pool_rank = options_.pool_rank,
                          .runtime = &runtime_,
                          .ops = trace_ ? &trace_->ops() : &ops_,
                          .watchdog = &watchdog_,
                          .trace = trace_.get(),
                          .trace_context = options_.trace_context,
                          .progress = progress});
  if (!model.ok()) {
    LogError(command.name(), ": ", model.status().ToString());
    internal::WorkerReport report;
    internal::LoadFailed& failed = *report.mutable_load_failed();
    failed.set_instance(instance);
    failed.set_code(static_cast<int32_t>(model.status().code()));
    failed.set_message(std::string(model.status().message()));
    control_->Report(std::move(report));
    return;
  }
  LogInfo(command.name(), ": ready, ", (*model)->predicted_bytes, " bytes predicted, ",
          (*model)->measured_bytes, " measured");
  const absl::Status served = (*model)->group->leader() ? Lead(**model) : Follow(**model);
  if (!served.ok()) Die(absl::StrCat(command.name(), ": ", served.ToString()));
  model->reset();
  internal::WorkerReport report;
  report.mutable_unloaded()->set_instance(instance);
  control_->Report(std::move(report));
  LogInfo(command.name(), ": unloaded");
}

namespace {

internal::WorkerReport LoadedReport(const LoadedModel& model) {
  internal::WorkerReport report;
  internal::Loaded& loaded = *report.mutable_loaded();
  loaded.set_instance(model.command.instance());
  loaded.set_predicted_bytes(model.predicted_bytes);
  loaded.set_measured_bytes(model.measured_bytes);
  return report;
}

}  // namespace

absl::Status Worker::Lead(LoadedModel& model) {
  auto inbox = std::make_shared<Inbox>();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    inbox_ = inbox;
    inbox_instance_ = model.command.instance();
    if (shutdown_) inbox->Stop();
  }
  ServeEvents events;
  events.on_message = [inbox](const internal::CoordinatorMessage& m) { inbox->Put(m); };
  // The stream also ends when the coordinator unloads the model; if it is the coordinator that
  // ended, the control link knows.
  events.on_lost = [inbox](const absl::Status& why) {
    LogInfo("serve stream ended: ", why.ToString());
    inbox->Stop();
  };
  const ServeTarget target = {.epoch = control_->epoch(), .instance = model.command.instance()};
  ASSIGN_OR_RETURN(const std::unique_ptr<ServeLink> link,
                   ServeLink::Connect(options_.link, target, std::move(events)));
  control_->Report(LoadedReport(model));
  const absl::Status status = Leader(model, *link, *inbox, watchdog_, steps_).Run();
  const std::lock_guard<std::mutex> lock(mutex_);
  inbox_.reset();
  return status;
}

absl::Status Worker::Follow(LoadedModel& model) {
  control_->Report(LoadedReport(model));
  absl::Time stop_by = absl::InfiniteFuture();
  for (;;) {
    absl::StatusOr<absl::Span<const uint8_t>> bytes = model.group->channel()->Next(kLook);
    if (absl::IsDeadlineExceeded(bytes.status())) {
      if (stop_by == absl::InfiniteFuture() && ShuttingDown()) stop_by = absl::Now() + kStopGrace;
      if (absl::Now() > stop_by) return absl::DeadlineExceededError("no stop from the leader");
      continue;
    }
    RETURN_IF_ERROR(bytes.status());
    const auto* header = reinterpret_cast<const PlanHeader*>(bytes->data());
    if (bytes->size() >= sizeof(PlanHeader) && header->kind == PlanKind::kStop) break;
    // Truncated bytes are Execute()'s to refuse.
    const StepWork work = bytes->size() >= sizeof(PlanHeader) ? WorkOf(*header) : StepWork{};
    watchdog_.Arm(model.allowance->For(work), "a step");
    RETURN_IF_ERROR(model.engine->Execute(*bytes));
    watchdog_.Disarm();
    steps_.fetch_add(1, std::memory_order_relaxed);
  }
  watchdog_.Arm(kStopGrace, "the end of the last step");
  RETURN_IF_ERROR(model.engine->Drain());
  watchdog_.Disarm();
  return absl::OkStatus();
}

}  // namespace tessera
