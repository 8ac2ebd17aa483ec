#include "worker/read_jobs.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "common/status_macros.h"

namespace tessera {
namespace {

// Reader threads fill staging buffers; the calling thread takes full ones to their places and hands
// them back.
class ParallelReader {
 public:
  ParallelReader(const std::vector<ReadJob>& jobs, const ReadOptions& options, Runtime& runtime)
      : jobs_(jobs), options_(options), runtime_(runtime) {}

  absl::Status Run();

 private:
  struct Reader {
    std::thread thread;
    void* staging = nullptr;
    std::unique_ptr<Event> placed;
    const ReadJob* full = nullptr;  // a job whose bytes wait in `staging`
  };

  absl::Status Start();
  absl::Status PlaceAsTheyCome();
  absl::Status Place(const ReadJob& job, Reader& reader);
  void ReadLoop(Reader& reader);

  const std::vector<ReadJob>& jobs_;
  const ReadOptions& options_;
  Runtime& runtime_;
  std::vector<Reader> readers_;
  std::atomic<size_t> next_job_{0};
  std::mutex mutex_;  // guards what follows, and Reader::full
  std::condition_variable changed_;
  std::deque<Reader*> ready_;
  size_t finished_readers_ = 0;
  absl::Status status_;
};

absl::Status ParallelReader::Run() {
  absl::Status status = Start();
  if (status.ok()) {
    status = PlaceAsTheyCome();
  } else {
    const std::lock_guard<std::mutex> lock(mutex_);
    status_ = status;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status_.ok()) status_ = status;
    next_job_ = jobs_.size();
    for (Reader& r : readers_) r.full = nullptr;
  }
  changed_.notify_all();
  for (Reader& r : readers_) {
    if (r.thread.joinable()) r.thread.join();
  }
  const absl::Status synced = runtime_.Synchronize(runtime_.side_stream());
  for (Reader& r : readers_) {
    if (r.staging != nullptr) runtime_.FreePinned(r.staging);
  }
  return status.ok() ? synced : status;
}

absl::Status ParallelReader::Start() {
  const auto count = std::min(static_cast<size_t>(std::max(1, options_.threads)),
                              std::max<size_t>(1, jobs_.size()));
  readers_ = std::vector<Reader>(count);
  for (Reader& r : readers_) {
    ASSIGN_OR_RETURN(r.staging, runtime_.AllocatePinned(kStagingBytes));
    ASSIGN_OR_RETURN(r.placed, runtime_.NewEvent());
  }
  for (Reader& r : readers_) r.thread = std::thread([this, &r] { ReadLoop(r); });
  return absl::OkStatus();
}

void ParallelReader::ReadLoop(Reader& reader) {
  for (;;) {
    const size_t index = next_job_.fetch_add(1);
    if (index >= jobs_.size()) break;
    const absl::Status status = jobs_[index].read(static_cast<char*>(reader.staging));
    std::unique_lock<std::mutex> lock(mutex_);
    if (!status.ok() || !status_.ok()) {
      if (status_.ok()) status_ = status;
      break;
    }
    reader.full = &jobs_[index];
    ready_.push_back(&reader);
    changed_.notify_all();
    changed_.wait(lock, [&] { return reader.full == nullptr; });
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  ++finished_readers_;
  changed_.notify_all();
}

absl::Status ParallelReader::Place(const ReadJob& job, Reader& reader) {
  if (!job.place) return absl::OkStatus();
  RETURN_IF_ERROR(job.place(static_cast<const char*>(reader.staging)));
  RETURN_IF_ERROR(reader.placed->Record(runtime_.side_stream()));
  return reader.placed->Wait();
}

absl::Status ParallelReader::PlaceAsTheyCome() {
  int64_t total = 0, done = 0;
  for (const ReadJob& job : jobs_) total += job.bytes;
  for (;;) {
    Reader* reader = nullptr;
    const ReadJob* job = nullptr;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] {
        return !ready_.empty() || !status_.ok() || finished_readers_ == readers_.size();
      });
      if (!status_.ok()) return status_;
      if (ready_.empty()) return absl::OkStatus();
      reader = ready_.front();
      ready_.pop_front();
      job = reader->full;
    }
    RETURN_IF_ERROR(Place(*job, *reader));
    done += job->bytes;
    if (options_.progress) options_.progress(done, total);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      reader->full = nullptr;
    }
    changed_.notify_all();
  }
}

}  // namespace

absl::Status RunJobs(const std::vector<ReadJob>& jobs, const ReadOptions& options,
                     Runtime& runtime) {
  return ParallelReader(jobs, options, runtime).Run();
}

}  // namespace tessera
