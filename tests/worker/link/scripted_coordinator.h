// The far side of worker/link: a WorkerLink service that does what a test says.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "proto/cluster.grpc.pb.h"

namespace tessera::testing {

class ScriptedCoordinator final : public internal::WorkerLink::Service {
 public:
  using ControlStream = grpc::ServerReaderWriter<internal::WorkerCommand, internal::WorkerReport>;
  using ServeStream =
      grpc::ServerReaderWriter<internal::CoordinatorMessage, internal::LeaderMessage>;

  // What a call does, on a thread of its own.
  std::function<grpc::Status(grpc::ServerContext&, ControlStream&)> on_control;
  std::function<grpc::Status(grpc::ServerContext&, ServeStream&)> on_serve;

  // Listens on `port` of loopback; 0: a free one.
  void Start(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    port_ = port;
  }
  // Cancels every call and waits for the scripts to end.
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  ~ScriptedCoordinator() override { Stop(); }

  // Reads the registration, into `report`, and answers with `epoch`.
  static void Welcome(ControlStream& stream, int64_t epoch, internal::WorkerReport& report) {
    stream.Read(&report);
    internal::WorkerCommand command;
    command.mutable_welcome()->set_epoch(epoch);
    stream.Write(command);
  }
  static void Welcome(ControlStream& stream, int64_t epoch) {
    internal::WorkerReport report;
    Welcome(stream, epoch, report);
  }

 private:
  grpc::Status Control(grpc::ServerContext* context, ControlStream* stream) override {
    return on_control(*context, *stream);
  }
  grpc::Status Serve(grpc::ServerContext* context, ServeStream* stream) override {
    return on_serve(*context, *stream);
  }

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace tessera::testing
