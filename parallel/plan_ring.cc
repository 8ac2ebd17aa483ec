#include "parallel/plan_ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

namespace tessera {
namespace {

constexpr int64_t kLine = 64;

// A futex word with a count of those asleep on it, so that ringing it is no system call while all
// are busy. Zero is a valid start.
class Bell {
 public:
  // Returns when `ready()` or at `deadline`, with the last value of ready().
  template <typename Ready>
  bool Wait(const Ready& ready, absl::Time deadline) {
    while (!ready()) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return false;
      // The word is read before ready() is looked at again: a ring in between changes it, and the
      // kernel then does not put us to sleep.
      const uint32_t seen = word_.load();
      sleepers_.fetch_add(1);
      if (!ready()) {
        const timespec relative = absl::ToTimespec(left);
        // Not FUTEX_PRIVATE: the sleepers are other processes. Every return leads to a new look.
        syscall(SYS_futex, &word_, FUTEX_WAIT, seen, &relative, nullptr, 0);
      }
      sleepers_.fetch_sub(1);
    }
    return true;
  }

  void Ring() {
    word_.fetch_add(1);
    if (sleepers_.load() > 0) syscall(SYS_futex, &word_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

 private:
  std::atomic<uint32_t> word_;
  std::atomic<uint32_t> sleepers_;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

int64_t SlotBytes(const PlanRingShape& shape) {
  return (kLine + shape.slot_bytes + kLine - 1) / kLine * kLine;
}

}  // namespace

struct PlanRing::Head {
  alignas(kLine) std::atomic<uint64_t> written;
  alignas(kLine) Bell plan_bell;  // rung after each plan
  alignas(kLine) Bell free_bell;  // rung after each slot freed by a reader
};
struct alignas(64) PlanRing::Reader {
  std::atomic<uint64_t> freed;
};
struct alignas(64) PlanRing::Slot {
  int64_t bytes;
  uint8_t* data() { return reinterpret_cast<uint8_t*>(this) + kLine; }
};

int64_t PlanRing::Bytes(const PlanRingShape& shape) {
  return int64_t{sizeof(Head)} + shape.readers * int64_t{sizeof(Reader)} +
         shape.slots * SlotBytes(shape);
}

PlanRing::Head& PlanRing::head() const { return *static_cast<Head*>(memory_); }
PlanRing::Reader& PlanRing::reader(int index) const {
  return reinterpret_cast<Reader*>(static_cast<char*>(memory_) + sizeof(Head))[index];
}
PlanRing::Slot& PlanRing::slot(uint64_t plan) const {
  const int64_t index = static_cast<int64_t>(plan % static_cast<uint64_t>(shape_.slots));
  return *reinterpret_cast<Slot*>(reinterpret_cast<char*>(&reader(shape_.readers)) +
                                  index * SlotBytes(shape_));
}

absl::Status PlanRing::Write(absl::Span<const uint8_t> plan, absl::Duration timeout) {
  if (static_cast<int64_t>(plan.size()) > shape_.slot_bytes)
    return absl::InvalidArgumentError(absl::StrCat("plan channel: a plan of ", plan.size(),
                                                   " bytes, at most ", shape_.slot_bytes,
                                                   " were agreed"));
  const uint64_t number = head().written.load(std::memory_order_relaxed);
  const absl::Time deadline = absl::Now() + timeout;
  for (int r = 0; r < shape_.readers; ++r) {
    auto has_room = [&] {
      return number - reader(r).freed.load() < static_cast<uint64_t>(shape_.slots);
    };
    if (!head().free_bell.Wait(has_room, deadline))
      return absl::DeadlineExceededError(
          absl::StrCat("plan channel: reader ", r, " of ", shape_.readers, " is ", shape_.slots,
                       " plans behind for ", absl::FormatDuration(timeout)));
  }
  Slot& to = slot(number);
  to.bytes = static_cast<int64_t>(plan.size());
  if (!plan.empty()) std::memcpy(to.data(), plan.data(), plan.size());
  head().written.store(number + 1);
  head().plan_bell.Ring();
  return absl::OkStatus();
}

void PlanRing::Free(int reader_index) {
  if (!holding_) return;
  holding_ = false;
  reader(reader_index).freed.fetch_add(1);
  head().free_bell.Ring();
}

absl::StatusOr<absl::Span<const uint8_t>> PlanRing::Read(int reader_index, absl::Duration timeout,
                                                         absl::Duration spin) {
  Free(reader_index);
  const uint64_t number = reader(reader_index).freed.load(std::memory_order_relaxed);
  auto has_plan = [&] { return head().written.load() > number; };
  const absl::Time start = absl::Now();
  while (!has_plan() && absl::Now() - start < spin) {
  }
  if (!head().plan_bell.Wait(has_plan, start + timeout))
    return absl::DeadlineExceededError(
        absl::StrCat("plan channel: no plan for ", absl::FormatDuration(timeout)));
  holding_ = true;
  Slot& from = slot(number);
  return absl::MakeConstSpan(from.data(), static_cast<size_t>(from.bytes));
}

}  // namespace tessera
