#include "tests/coordinator/fake_worker.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace tessera::testing {

absl::StatusOr<std::unique_ptr<FakeWorker>> FakeWorker::Start(FakeWorkerOptions options) {
  std::unique_ptr<FakeWorker> worker(new FakeWorker(std::move(options)));
  internal::Register self;
  self.set_rank(worker->options_.rank);
  self.set_ranks(worker->options_.ranks);
  self.set_host("test-host");
  self.set_pid(1000 + worker->options_.rank);
  self.set_device("test CPU");
  self.set_driver_version("580.65.06");
  self.set_runtime_version("13.0");
  self.set_commit("0123456789ab");
  self.set_total_bytes(int64_t{1} << 30);
  self.set_free_bytes(int64_t{1} << 30);
  FakeWorker* raw = worker.get();
  ASSIGN_OR_RETURN(
      auto control,
      ControlLink::Connect(
          worker->options_.link, self, worker->steps_,
          {.on_command = [raw](const internal::WorkerCommand& c) { raw->OnCommand(c); },
           .on_lost =
               [raw](const absl::Status&) {
                 std::lock_guard<std::mutex> lock(raw->mu_);
                 raw->shutdown_ = true;
                 raw->changed_.notify_all();
               }}));
  std::lock_guard<std::mutex> lock(raw->mu_);
  worker->control_ = std::move(control);
  raw->changed_.notify_all();
  return worker;
}

FakeWorker::~FakeWorker() {
  EndServe();
  EndControl();
}

template <typename Predicate>
bool FakeWorker::WaitUntil(Predicate predicate) {
  std::unique_lock<std::mutex> lock(mu_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(kPatience), predicate);
}

void FakeWorker::OnCommand(const internal::WorkerCommand& command) {
  // A command can overtake the return of Connect.
  WaitUntil([this] { return control_ != nullptr; });
  internal::WorkerReport report;
  if (command.has_load()) {
    const internal::LoadShard& load = command.load();
    if (options_.on_load) {
      report = options_.on_load(load);
    } else {
      report.mutable_loaded()->set_instance(load.instance());
      report.mutable_loaded()->set_predicted_bytes(100);
      report.mutable_loaded()->set_measured_bytes(101);
    }
    if (options_.serves && load.ranks(0) == options_.rank) {
      auto serve = ServeLink::Connect(
          options_.link, {.epoch = control_->epoch(), .instance = load.instance()},
          {.on_message = [this](const internal::CoordinatorMessage& m) { OnMessage(m); },
           .on_lost = [](const absl::Status&) {}});
      TESSERA_CHECK(serve.ok(), serve.status().ToString());
      std::unique_ptr<ServeLink> old;
      std::lock_guard<std::mutex> lock(mu_);
      old = std::exchange(serve_, *std::move(serve));
    }
    control_->Report(std::move(report));
  } else if (command.has_unload()) {
    report.mutable_unloaded()->set_instance(command.unload().instance());
    control_->Report(std::move(report));
  } else if (command.has_shutdown()) {
    std::lock_guard<std::mutex> lock(mu_);
    shutdown_ = true;
    changed_.notify_all();
  }
}

void FakeWorker::OnMessage(const internal::CoordinatorMessage& message) {
  std::lock_guard<std::mutex> lock(mu_);
  if (message.has_submit()) submits_.push_back(message.submit());
  if (message.has_cancel()) cancels_.push_back(message.cancel().sequence());
  changed_.notify_all();
}

internal::Submit FakeWorker::WaitForSubmit(size_t index) {
  const bool there = WaitUntil([this, index] { return submits_.size() > index; });
  TESSERA_CHECK(there, "no request number ", index);
  std::lock_guard<std::mutex> lock(mu_);
  return submits_[index];
}

bool FakeWorker::WaitForCancel(uint64_t sequence) {
  return WaitUntil([this, sequence] {
    return std::find(cancels_.begin(), cancels_.end(), sequence) != cancels_.end();
  });
}

bool FakeWorker::WaitForShutdown() {
  return WaitUntil([this] { return shutdown_; });
}

void FakeWorker::SendTokens(uint64_t sequence, const std::vector<int32_t>& ids,
                            v1::FinishReason reason) {
  internal::LeaderMessage message;
  internal::SequenceEvent& event = *message.mutable_tokens()->add_events();
  event.set_sequence(sequence);
  for (const int32_t id : ids) event.add_tokens()->set_id(id);
  event.set_finish_reason(reason);
  Send(std::move(message));
}

void FakeWorker::Send(internal::LeaderMessage message) {
  std::lock_guard<std::mutex> lock(mu_);
  TESSERA_CHECK(serve_ != nullptr);
  serve_->Send(std::move(message)).IgnoreError();
}

void FakeWorker::EndServe() {
  std::unique_ptr<ServeLink> serve;
  {
    std::lock_guard<std::mutex> lock(mu_);
    serve = std::move(serve_);
  }
}

void FakeWorker::EndControl() {
  // Kept in control_ until its threads are joined: they still use it.
  if (control_ != nullptr) control_->Stop();
}

}  // namespace tessera::testing
