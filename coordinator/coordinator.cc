#include "coordinator/coordinator.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/time/clock.h>
#include <grpcpp/impl/service_type.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/cluster_service.h"
#include "coordinator/drain_gate.h"
#include "coordinator/executor.h"
#include "coordinator/inference_service.h"
#include "coordinator/service_context.h"
#include "coordinator/worker_link_service.h"

namespace tessera {
namespace {

constexpr int kExecutorThreads = 4;
constexpr size_t kMaxQueuedTasks = 10'000;
constexpr std::chrono::milliseconds kTickPeriod{200};
constexpr absl::Duration kDrainPoll = absl::Milliseconds(20);
// For the last statuses to reach clients and workers after a drain.
constexpr absl::Duration kServerGrace = absl::Seconds(1);

// Passes health on to the server while there is one; only changes, since each wakes all watchers.
class HealthBoard {
 public:
  void Attach(Server* server) {
    std::lock_guard<std::mutex> lock(mu_);
    server_ = server;
  }
  void Set(absl::string_view service, bool serving) {
    std::lock_guard<std::mutex> lock(mu_);
    if (server_ == nullptr) return;
    const auto [place, is_new] = shown_.try_emplace(std::string(service), serving);
    if (!is_new && place->second == serving) return;
    place->second = serving;
    server_->SetServing(service, serving);
  }

 private:
  std::mutex mu_;
  Server* server_ ABSL_GUARDED_BY(mu_) = nullptr;  // null: not started, or stopped
  std::map<std::string, bool> shown_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

// In the order of construction; the server goes first, and with it every call.
struct Coordinator::Impl {
  Impl(const CoordinatorOptions& options, PlanFunction find_plan, const Clock& clock)
      : auth(options.auth),
        cluster(options.cluster, std::move(find_plan), clock,
                [this](absl::string_view service, bool serving) { health.Set(service, serving); }),
        executor(kExecutorThreads, kMaxQueuedTasks),
        context{cluster, executor, auth, clock, options.streams},
        inference(MakeInferenceService(context)),
        cluster_rpc(MakeClusterService(context, drain)),
        worker_link(MakeWorkerLinkService(context)) {}

  void TickLoop() {
    std::unique_lock<std::mutex> lock(tick_mu);
    while (!stopping) {
      tick_wake.wait_for(lock, kTickPeriod);
      lock.unlock();
      cluster.Tick();
      lock.lock();
    }
  }

  void Stop() {
    {
      std::lock_guard<std::mutex> lock(tick_mu);
      if (std::exchange(stopping, true)) return;
      tick_wake.notify_all();
    }
    if (ticker.joinable()) ticker.join();
    cluster.Shutdown();
    drain.Request(absl::ZeroDuration(), nullptr);
    drain.Finish();
    if (server != nullptr) server->Shutdown(kServerGrace);
    health.Attach(nullptr);
  }

  Auth auth;
  HealthBoard health;
  DrainGate drain;
  Cluster cluster;
  Executor executor;
  ServiceContext context;
  std::unique_ptr<grpc::Service> inference;
  std::unique_ptr<grpc::Service> cluster_rpc;
  std::unique_ptr<grpc::Service> worker_link;
  std::unique_ptr<Server> server;

  std::mutex tick_mu;
  std::condition_variable tick_wake;
  bool stopping ABSL_GUARDED_BY(tick_mu) = false;
  std::thread ticker;
};

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(const CoordinatorOptions& options,
                                                                PlanFunction find_plan,
                                                                const Clock& clock) {
  if (options.auth.launch_secret.empty()) {
    return absl::InvalidArgumentError("launch secret: empty; workers need one");
  }
  auto impl = std::make_unique<Impl>(options, std::move(find_plan), clock);
  ASSIGN_OR_RETURN(impl->server,
                   Server::Start(options.server, {impl->inference.get(), impl->cluster_rpc.get(),
                                                  impl->worker_link.get()}));
  impl->health.Attach(impl->server.get());
  impl->health.Set("live", true);
  impl->cluster.Tick();  // shows the rest
  impl->ticker = std::thread([raw = impl.get()] { raw->TickLoop(); });
  return std::unique_ptr<Coordinator>(new Coordinator(std::move(impl)));
}

Coordinator::Coordinator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Coordinator::~Coordinator() {
  if (impl_ != nullptr) impl_->Stop();
}

const std::string& Coordinator::address() const { return impl_->server->address(); }

void Coordinator::RequestDrain(absl::Duration grace) { impl_->drain.Request(grace, nullptr); }

void Coordinator::RunUntilDrained() {
  impl_->drain.Wait();
  const absl::Time begin = absl::Now();
  impl_->cluster.StartDrain();
  LogInfo("draining: ", impl_->cluster.live_requests(), " requests run, at most ",
          absl::FormatDuration(impl_->drain.grace()), " more");
  while (impl_->cluster.live_requests() > 0 && absl::Now() - begin < impl_->drain.grace()) {
    absl::SleepFor(kDrainPoll);
  }
  impl_->Stop();
  LogInfo("drained");
}

}  // namespace tessera
