#include "worker/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "worker/convert.h"

namespace tessera {
namespace {

constexpr int64_t kStagingBytes = 16 << 20;

DType DTypeOf(WeightRole role, const LoadOptions& options) {
  const bool matrix = role == WeightRole::kMatrix || role == WeightRole::kEmbedding;
  return matrix ? options.matrix_dtype : options.vector_dtype;
}

// Whole rows of one part of a weight, contiguous in the rank's buffer.
struct ReadJob {
  const TensorEntry* tensor = nullptr;
  TensorBlock block;
  char* dst = nullptr;
  DType dtype = DType::kF32;
  int64_t elements() const {
    return (block.row_end - block.row_begin) * (block.col_end - block.col_begin);
  }
};

absl::Status AddJobs(const Checkpoint& checkpoint, const WeightSpec& spec, DType dtype, char* data,
                     std::vector<ReadJob>& jobs) {
  for (const WeightPart& part : spec.parts) {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint.Find(part.tensor));
    const int64_t cols = part.block.col_end - part.block.col_begin;
    if (cols == 0) continue;
    const int64_t widest = cols * std::max(SizeOf(dtype), SizeOf(tensor->dtype));
    const int64_t rows_per_job = std::max<int64_t>(1, kStagingBytes / widest);
    if (widest > kStagingBytes)
      return absl::UnimplementedError(
          absl::StrCat(part.tensor, ": a row of ", widest, " bytes is past ", kStagingBytes));
    for (int64_t row = part.block.row_begin; row < part.block.row_end; row += rows_per_job) {
      const int64_t local = part.dst_row + row - part.block.row_begin;
      jobs.push_back({.tensor = tensor,
                      .block = {row, std::min(row + rows_per_job, part.block.row_end),
                                part.block.col_begin, part.block.col_end},
                      .dst = data + (local * spec.cols + part.dst_col) * SizeOf(dtype),
                      .dtype = dtype});
    }
  }
  return absl::OkStatus();
}

// Reader threads take jobs in order, read and convert into a staging buffer of their own (or
// straight into place on the CPU); the calling thread copies finished buffers to the device and
// hands them back.
class ParallelReader {
 public:
  ParallelReader(const Checkpoint& checkpoint, std::vector<ReadJob> jobs,
                 const LoadOptions& options, Runtime& runtime)
      : checkpoint_(checkpoint), jobs_(std::move(jobs)), options_(options), runtime_(runtime) {}

  absl::Status Run();

 private:
  struct Reader {
    std::thread thread;
    void* staging = nullptr;
    std::unique_ptr<Event> copied;
    const ReadJob* full = nullptr;  // a job whose bytes wait in `staging`
  };

  absl::Status Start();
  absl::Status CopyAsTheyCome();
  void ReadLoop(Reader& reader);
  absl::Status ReadOne(const ReadJob& job, void* staging) const;

  const Checkpoint& checkpoint_;
  const std::vector<ReadJob> jobs_;
  const LoadOptions& options_;
  Runtime& runtime_;
  std::vector<Reader> readers_;
  std::atomic<size_t> next_job_{0};
  std::mutex mutex_;  // guards what follows, and Reader::full
  std::condition_variable changed_;
  std::deque<Reader*> ready_;
  size_t finished_readers_ = 0;
  int64_t elements_done_ = 0;
  absl::Status status_;
};

absl::Status ParallelReader::Run() {
  absl::Status status = Start();
  if (status.ok()) {
    status = CopyAsTheyCome();
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
  const auto count = std::min(static_cast<size_t>(std::max(1, options_.reader_threads)),
                              std::max<size_t>(1, jobs_.size()));
  readers_ = std::vector<Reader>(count);
  for (Reader& r : readers_) {
    ASSIGN_OR_RETURN(r.staging, runtime_.AllocatePinned(kStagingBytes));
    ASSIGN_OR_RETURN(r.copied, runtime_.NewEvent());
  }
  for (Reader& r : readers_) r.thread = std::thread([this, &r] { ReadLoop(r); });
  return absl::OkStatus();
}

absl::Status ParallelReader::ReadOne(const ReadJob& job, void* staging) const {
  const bool in_place = runtime_.device() == Device::kCpu;
  const bool same = job.tensor->dtype == job.dtype;
  void* out = in_place ? job.dst : staging;
  void* raw = in_place && same ? job.dst : staging;
  RETURN_IF_ERROR(checkpoint_.Read(*job.tensor, job.block, raw));
  if (same) return absl::OkStatus();
  if (!in_place && SizeOf(job.dtype) > SizeOf(job.tensor->dtype)) {
    // Widening in place would overwrite what is still to be read.
    std::vector<char> copy(
        static_cast<const char*>(raw),
        static_cast<const char*>(raw) + job.elements() * SizeOf(job.tensor->dtype));
    ConvertFloats(copy.data(), job.tensor->dtype, out, job.dtype, job.elements());
  } else {
    ConvertFloats(raw, job.tensor->dtype, out, job.dtype, job.elements());
  }
  return absl::OkStatus();
}

void ParallelReader::ReadLoop(Reader& reader) {
  for (;;) {
    const size_t index = next_job_.fetch_add(1);
    if (index >= jobs_.size()) break;
    const absl::Status status = ReadOne(jobs_[index], reader.staging);
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

absl::Status ParallelReader::CopyAsTheyCome() {
  int64_t total = 0, done = 0;
  for (const ReadJob& job : jobs_) total += job.elements() * SizeOf(job.tensor->dtype);
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
    if (runtime_.device() == Device::kCuda) {
      RETURN_IF_ERROR(runtime_.Copy(job->dst, reader->staging, job->elements() * SizeOf(job->dtype),
                                    runtime_.side_stream()));
      RETURN_IF_ERROR(reader->copied->Record(runtime_.side_stream()));
      RETURN_IF_ERROR(reader->copied->Wait());
    }
    done += job->elements() * SizeOf(job->tensor->dtype);
    if (options_.progress) options_.progress(done, total);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      reader->full = nullptr;
    }
    changed_.notify_all();
  }
}

absl::Status LoadCheckpoint(const ModelConfig& config, const std::vector<WeightSpec>& table,
                            const LoadOptions& options, const Arena& arena, Runtime& runtime) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options.model_dir));
  RETURN_IF_ERROR(CheckTensors(config, checkpoint));
  std::vector<ReadJob> jobs;
  for (const WeightSpec& spec : table) {
    RETURN_IF_ERROR(AddJobs(checkpoint, spec, DTypeOf(spec.role, options),
                            static_cast<char*>(arena.Find(spec.name)), jobs));
  }
  const auto narrowed = std::count_if(jobs.begin(), jobs.end(), [](const ReadJob& job) {
    return SizeOf(job.tensor->dtype) > SizeOf(job.dtype);
  });
  if (narrowed > 0)
    LogWarning("weights are rounded from f32 to ", Name(options.matrix_dtype), " as they load");
  return ParallelReader(checkpoint, std::move(jobs), options, runtime).Run();
}

// Uniform values of about the spread a trained model has: activations stay of order one through any
// depth.
void SetDummySpread(WeightRole role, int64_t cols, RandomFillArgs& fill) {
  switch (role) {
    case WeightRole::kMatrix:
      fill.scale = std::sqrt(3.f / static_cast<float>(cols));
      return;
    case WeightRole::kEmbedding:
      fill.scale = 1.f;
      return;
    case WeightRole::kNorm:
      fill.offset = 1.f;
      return;
    case WeightRole::kBias:
      fill.scale = 0.1f;
      return;
  }
}

absl::Status FillDummy(const std::vector<WeightSpec>& table, const LoadOptions& options,
                       const Arena& arena, Runtime& runtime, const Ops& ops) {
  const auto bytes_of = [&](const WeightSpec& spec) {
    return spec.rows * spec.cols * SizeOf(DTypeOf(spec.role, options));
  };
  int64_t total = 0, done = 0;
  for (const WeightSpec& spec : table) total += bytes_of(spec);
  for (const WeightSpec& spec : table) {
    const DType dtype = DTypeOf(spec.role, options);
    auto* data = static_cast<char*>(arena.Find(spec.name));
    for (const WeightPart& part : spec.parts) {
      RandomFillArgs fill = {
          .dst = data + (part.dst_row * spec.cols + part.dst_col) * SizeOf(dtype),
          .rows = part.block.row_end - part.block.row_begin,
          .cols = part.block.col_end - part.block.col_begin,
          .dst_stride = spec.cols,
          .first_row = part.block.row_begin,
          .first_col = part.block.col_begin,
          .row_stride = part.tensor_cols,
          .key = TensorKey(part.tensor.data(), static_cast<int64_t>(part.tensor.size())),
          .dtype = dtype};
      SetDummySpread(spec.role, part.tensor_cols, fill);
      RETURN_IF_ERROR(ops.random_fill(fill, runtime.main_stream()));
    }
    done += bytes_of(spec);
    if (options.progress) options.progress(done, total);
  }
  return runtime.Synchronize(runtime.main_stream());
}

}  // namespace

absl::StatusOr<WeightMap> LoadWeights(const ModelConfig& config,
                                      const std::vector<WeightSpec>& table,
                                      const LoadOptions& options, const Arena& arena,
                                      Runtime& runtime, const Ops& ops) {
  WeightMap weights;
  for (const WeightSpec& spec : table) {
    void* data = arena.Find(spec.name);
    if (data == nullptr && spec.rows * spec.cols > 0)
      return absl::InternalError(absl::StrCat(spec.name, ": not in the memory layout"));
    weights.Add(
        spec.name,
        {.data = data, .rows = spec.rows, .cols = spec.cols, .dtype = DTypeOf(spec.role, options)});
  }
  if (options.dummy) {
    RETURN_IF_ERROR(FillDummy(table, options, arena, runtime, ops));
  } else {
    RETURN_IF_ERROR(LoadCheckpoint(config, table, options, arena, runtime));
  }
  return weights;
}

}  // namespace tessera
