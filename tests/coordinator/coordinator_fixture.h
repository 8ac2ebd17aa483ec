// A real coordinator on a free loopback port, with a planner that hands out what a test asks for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "coordinator/coordinator.h"
#include "proto/inference.grpc.pb.h"
#include "tests/coordinator/fake_worker.h"

namespace tessera::testing {

// A plan of tp x pp ranks as asked for (1 where free), with 100 KV blocks.
absl::StatusOr<Plan> FakePlan(const PlanInput& input);

// What a Generate stream brought.
struct Answer {
  std::vector<v1::GenerateEvent> events;
  grpc::Status status;
  std::string retry_after_ms;  // trailing metadata

  // Joined over the events of one choice.
  std::vector<int32_t> tokens(int choice = 0) const;
  std::string text(int choice = 0) const;
  v1::FinishReason reason(int choice = 0) const;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  // Changes to the options go before StartCoordinator.
  CoordinatorTest();
  ~CoordinatorTest() override;

  void StartCoordinator();
  LinkOptions Link() const;
  std::shared_ptr<grpc::Channel> Channel() const;
  // Adds the ranks of a pool.
  void StartPool(int ranks);
  // Loads tests/data/tiny-qwen2 as "tiny"; returns the stream's status.
  grpc::Status LoadTiny(int tp = 1, std::vector<v1::LoadModelEvent>* events = nullptr);
  // All three: a coordinator, one rank, "tiny" ready.
  void StartServing();

  grpc::Status Load(const v1::LoadModelRequest& request, std::vector<v1::LoadModelEvent>* events);
  // Health of `service`, as grpc.health.v1 says.
  bool Healthy(const std::string& service) const;

  static v1::GenerateRequest Request(std::vector<int32_t> prompt = {1, 2, 3});
  // Runs a call to its end.
  Answer Generate(const v1::GenerateRequest& request) const;

  // A call under way on a thread of its own.
  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
    // Reads to the end.
    Answer Finish();
  };
  // Returns once the first event (the request's id) is there, or the call has ended.
  std::unique_ptr<Call> Begin(const v1::GenerateRequest& request,
                              std::chrono::milliseconds deadline = std::chrono::minutes(1)) const;

  CoordinatorOptions options_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;
  std::vector<std::unique_ptr<FakeWorker>> workers_;
};

}  // namespace tessera::testing
