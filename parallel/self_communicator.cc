#include "parallel/self_communicator.h"

#include <atomic>

#include "common/status_macros.h"
#include "parallel/argument_check.h"
#include "parallel/local_copy.h"
#include "parallel/residual_norm.h"

namespace tessera {
namespace {

class SelfCommunicator : public Communicator {
 public:
  explicit SelfCommunicator(const Ops& ops) : ops_(ops) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }

  absl::Status AllReduceSum(void*, int64_t count, DType dtype, const Stream&) override {
    RETURN_IF_ERROR(CheckSum(count, dtype));
    return Alive();
  }

  absl::Status AllReduceNorm(const AllReduceNormArgs& args, const Stream& stream) override {
    RETURN_IF_ERROR(CheckAllReduceNorm(args));
    RETURN_IF_ERROR(Alive());
    return AddResidualAndNorm(args, ops_, stream);
  }

  absl::Status AllGather(const void* send, void* recv, int64_t bytes,
                         const Stream& stream) override {
    RETURN_IF_ERROR(CheckBytes(bytes));
    RETURN_IF_ERROR(Alive());
    return LocalCopy(recv, send, bytes, stream);
  }

  absl::Status Send(const void*, int64_t bytes, int peer, const Stream&) override {
    return CheckTransfer(bytes, peer, 0, 1);  // there is no other rank, so never OK
  }
  absl::Status Recv(void*, int64_t bytes, int peer, const Stream&) override {
    return CheckTransfer(bytes, peer, 0, 1);
  }

  absl::Status Broadcast(void*, int64_t bytes, int root, const Stream&) override {
    RETURN_IF_ERROR(CheckBroadcast(bytes, root, 1));
    return Alive();
  }

  void Abort() override { aborted_ = true; }

 private:
  absl::Status Alive() const {
    return aborted_ ? absl::UnavailableError("the group of one rank was aborted")
                    : absl::OkStatus();
  }

  const Ops& ops_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::unique_ptr<Communicator> NewSelfCommunicator(const Ops& ops) {
  return std::make_unique<SelfCommunicator>(ops);
}

}  // namespace tessera
