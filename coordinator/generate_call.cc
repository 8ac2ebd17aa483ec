#include "coordinator/generate_call.h"

#include <chrono>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/event_sink.h"
#include "coordinator/request_check.h"
#include "coordinator/serving.h"
#include "coordinator/write_stream.h"

namespace tessera {
namespace {

uint64_t Random64() {
  thread_local std::mt19937_64 engine((uint64_t{std::random_device()()} << 32) |
                                      std::random_device()());
  return engine();
}

class GenerateCall final : public WriteStream<v1::GenerateEvent>, public EventSink {
 public:
  GenerateCall(const ServiceContext& services, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request)
      : WriteStream(context, services.streams),
        services_(services),
        request_(request),
        accepted_({services.clock.SteadyUs(), services.clock.UnixUs()}) {}

  void Begin() {
    const absl::Status allowed = services_.auth.CheckUser(*context());
    if (!allowed.ok()) {
      EndStream(allowed);
      return;
    }
    auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
    if (!services_.executor.Run([self] { self->Submit(); })) {
      Refuse(absl::ResourceExhaustedError("too many requests wait to be checked"));
    }
  }

  bool Push(v1::GenerateEvent event) override { return PushEvent(std::move(event)); }
  void End(const absl::Status& status) override { EndStream(status); }

 private:
  // On an executor thread.
  void Submit() {
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (!gone_.ok()) {  // while it waited for the thread
        EndStream(gone_);
        return;
      }
    }
    auto serving = services_.cluster.FindReady(request_->model());
    if (!serving.ok()) {
      Refuse(serving.status());
      return;
    }
    const auto number = StartOn(**serving);
    if (!number.ok()) {
      Refuse(number.status());
      return;
    }
    std::unique_lock<std::mutex> lock(mu_);
    serving_ = *std::move(serving);
    number_ = *number;
    if (gone_.ok()) return;
    lock.unlock();
    serving_->Cancel(number_, gone_);  // neither member changes any more
  }

  absl::StatusOr<uint64_t> StartOn(Serving& serving) {
    const std::string fallback_id = absl::StrCat("req-", absl::Hex(Random64(), absl::kZeroPad16));
    ASSIGN_OR_RETURN(CheckedRequest checked,
                     CheckRequest(*request_, {.files = serving.spec().files.get(),
                                              .context = serving.spec().context,
                                              .random_seed = Random64(),
                                              .fallback_id = fallback_id}));
    LogInfo("request ", checked.request_id, ": model ", request_->model(), ", ",
            checked.prompt.size(), " prompt tokens, max_tokens ", checked.max_tokens, ", choices ",
            checked.choices);
    auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
    return serving.Start(std::move(checked), std::move(self), accepted_);
  }

  // Ends a call that was never started at a leader.
  void Refuse(const absl::Status& status) {
    if (absl::IsResourceExhausted(status)) {
      context()->AddTrailingMetadata("retry-after-ms", std::to_string(kRetryAfterMs));
    }
    EndStream(status);
  }

  void OnUserGone() override {
    // Only here is the context known to be alive: the call can be done once a leader has it.
    const bool late = std::chrono::system_clock::now() >= context()->deadline();
    const absl::Status gone = late
                                  ? absl::DeadlineExceededError("the request's deadline has passed")
                                  : absl::CancelledError("the client has left");
    std::shared_ptr<Serving> serving;
    {
      std::lock_guard<std::mutex> lock(mu_);
      gone_ = gone;
      serving = serving_;
    }
    // Not started yet: Submit sees gone_.
    if (serving != nullptr) serving->Cancel(number_, gone);
  }

  const ServiceContext& services_;
  const v1::GenerateRequest* const request_;
  const Moment accepted_;
  std::mutex mu_;
  absl::Status gone_ ABSL_GUARDED_BY(mu_);  // why the user is gone; OK: they are there
  std::shared_ptr<Serving> serving_ ABSL_GUARDED_BY(mu_);  // set once, with number_
  uint64_t number_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateEvent>* StartGenerate(const ServiceContext& services,
                                                           grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) {
  auto call = std::make_shared<GenerateCall>(services, context, request);
  call->KeepAlive();
  call->Begin();
  return call.get();
}

}  // namespace tessera
