// What the ranks of a group do together. The engine and layers know only this interface; behind it
// are MPI (CPU), NCCL with peer-to-peer kernels (CUDA), threads of one process (tests), or nobody
// else (one rank).
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/column_places.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// residual[t, d] += sum over ranks of partial[t, d]; y[t, d] = RMSNorm(residual) with `weight`
// (rms_norm.h's formula).
struct AllReduceNormArgs {
  void* partial = nullptr;       // [t, d] of `dtype`; contents are undefined afterwards
  void* residual = nullptr;      // [t, d] of `dtype`, updated; equal on all ranks before and after
  const void* weight = nullptr;  // [d] of `dtype`; null: no norm, y is not written
  void* y = nullptr;             // [t, d] of `dtype`; no overlap with the others
  ColumnCopies copies;           // of y, one after the other, as in rms_norm.h
  int64_t t = 0, d = 0;
  float eps = 0.f;
  DType dtype = DType::kF32;
};

// A group of ranks. All ranks call the same operations in the same order with the same sizes.
// Operations are enqueued on the stream (CUDA) or done on return (CPU). Sums are taken in an order
// that depends on sizes and ranks only, and every rank gets the same bits. kUnavailable: a peer is
// gone or the group was aborted. kInternal: the library refused the call. kInvalidArgument:
// negative size, a peer outside the group, or copies that rms_norm.h calls invalid.
class Communicator {
 public:
  static constexpr int64_t kBufferedSendBytes = 256 * 1024;

  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data[count] = sum over ranks. kUnimplemented: an integer dtype.
  virtual absl::Status AllReduceSum(void* data, int64_t count, DType dtype,
                                    const Stream& stream) = 0;

  // The reduction after a row-parallel matrix, with the residual add and the norm that follow it.
  virtual absl::Status AllReduceNorm(const AllReduceNormArgs& args, const Stream& stream) = 0;

  // recv[size() * bytes] = the ranks' send[bytes] in rank order. send may be recv + rank() * bytes.
  virtual absl::Status AllGather(const void* send, void* recv, int64_t bytes,
                                 const Stream& stream) = 0;

  // Point to point; each Send meets the peer's Recv of the same bytes, in order per pair. A Send of
  // up to kBufferedSendBytes returns without waiting for the Recv (on CUDA no Send blocks the
  // host).
  virtual absl::Status Send(const void* data, int64_t bytes, int peer, const Stream& stream) = 0;
  virtual absl::Status Recv(void* data, int64_t bytes, int peer, const Stream& stream) = 0;

  virtual absl::Status Broadcast(void* data, int64_t bytes, int root, const Stream& stream) = 0;

  // Makes operations of this rank that are under way or still to come return kUnavailable, or never
  // finish on the device; the only member that other threads may call.
  virtual void Abort() = 0;
};

}  // namespace tessera
