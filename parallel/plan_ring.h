// The shared-memory part of a plan channel: a ring with one writer and many readers, each of which
// reads every plan. Sleepers wait on a futex in the same memory, so an idle reader costs nothing.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <absl/types/span.h>

namespace tessera {

struct PlanRingShape {
  int readers = 0;
  int64_t slots = 0;
  int64_t slot_bytes = 0;  // of one plan at most
};

// A process's view of a ring in memory that may lie at another address elsewhere. The memory holds
//   head: plans written, plans freed, futex words   | one cache line each
//   per reader: plans freed by it                   | one cache line each
//   per slot: bytes of the plan, then the plan      | whole cache lines
// Memory of all zeros is an empty ring.
class PlanRing {
 public:
  static int64_t Bytes(const PlanRingShape& shape);

  // `memory` has Bytes(shape) bytes, aligned to 64, and outlives this.
  PlanRing(void* memory, const PlanRingShape& shape) : memory_(memory), shape_(shape) {}

  // Writer. kInvalidArgument: more than slot_bytes. kDeadlineExceeded: a reader still held the
  // oldest slot after `timeout`; nothing was written.
  absl::Status Write(absl::Span<const uint8_t> plan, absl::Duration timeout);

  // Reader `reader`: frees the plan of its last Read, then returns the next one, polling for `spin`
  // and sleeping for the rest of `timeout` while there is none. kDeadlineExceeded: none came.
  absl::StatusOr<absl::Span<const uint8_t>> Read(int reader, absl::Duration timeout,
                                                 absl::Duration spin);

 private:
  struct Head;
  struct Reader;
  struct Slot;
  Head& head() const;
  Reader& reader(int index) const;
  Slot& slot(uint64_t plan) const;
  void Free(int reader_index);

  void* const memory_;
  const PlanRingShape shape_;
  bool holding_ = false;  // reader: its last Read returned a plan that is not freed yet
};

}  // namespace tessera
