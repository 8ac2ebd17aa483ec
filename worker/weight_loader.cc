#include "worker/weight_loader.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "worker/convert.h"
#include "worker/packed_jobs.h"
#include "worker/packed_source.h"
#include "worker/read_jobs.h"

namespace tessera {
namespace {

DType DTypeOf(WeightRole role, const LoadOptions& options) {
  const bool matrix = role == WeightRole::kMatrix || role == WeightRole::kEmbedding;
  return matrix ? options.matrix_dtype : options.vector_dtype;
}

// Whole rows of one part of a dense weight, contiguous in the rank's buffer.
struct RowBlock {
  const TensorEntry* tensor = nullptr;
  TensorBlock block;
  char* dst = nullptr;
  DType dtype = DType::kF32;
  int64_t elements() const {
    return (block.row_end - block.row_begin) * (block.col_end - block.col_begin);
  }
};

// Reads and converts into staging, or straight into place on the CPU.
absl::Status ReadRows(const Checkpoint& checkpoint, const RowBlock& job, bool in_place,
                      char* staging) {
  const bool same = job.tensor->dtype == job.dtype;
  void* out = in_place ? job.dst : staging;
  void* raw = in_place && same ? job.dst : staging;
  RETURN_IF_ERROR(checkpoint.Read(*job.tensor, job.block, raw));
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

ReadJob RowJob(const Checkpoint& checkpoint, const RowBlock& rows, Runtime& runtime) {
  const bool in_place = runtime.device() == Device::kCpu;
  ReadJob job;
  job.bytes = rows.elements() * SizeOf(rows.tensor->dtype);
  job.read = [&checkpoint, rows, in_place](char* staging) {
    return ReadRows(checkpoint, rows, in_place, staging);
  };
  if (!in_place) {
    job.place = [&runtime, rows](const char* staging) {
      return runtime.Copy(rows.dst, staging, rows.elements() * SizeOf(rows.dtype),
                          runtime.side_stream());
    };
  }
  return job;
}

// The local rows `rows` of a part that has an order, which are whole rows of its tensor; of `to`,
// all but the block counts.
ReadJob OrderedRowJob(const Checkpoint& checkpoint, const WeightPart& part, Range rows,
                      const RowBlock& to, Runtime& runtime) {
  const bool in_place = runtime.device() == Device::kCpu;
  const int64_t row_bytes = part.tensor_cols * SizeOf(to.dtype);
  ReadJob job;
  job.bytes = rows.size() * part.tensor_cols * SizeOf(to.tensor->dtype);
  job.read = [=, &checkpoint](char* staging) -> absl::Status {
    std::vector<char> raw(static_cast<size_t>(part.tensor_cols * SizeOf(to.tensor->dtype)));
    char* out = in_place ? to.dst : staging;
    for (int64_t i = rows.begin; i < rows.end; ++i, out += row_bytes) {
      const int64_t row = (*part.order)[static_cast<size_t>(i)];
      if (row < 0) {
        std::fill_n(out, row_bytes, char{0});
        continue;
      }
      RETURN_IF_ERROR(checkpoint.Read(*to.tensor, {row, row + 1, 0, part.tensor_cols}, raw.data()));
      ConvertFloats(raw.data(), to.tensor->dtype, out, to.dtype, part.tensor_cols);
    }
    return absl::OkStatus();
  };
  if (!in_place) {
    job.place = [=, &runtime](const char* staging) {
      return runtime.Copy(to.dst, staging, rows.size() * row_bytes, runtime.side_stream());
    };
  }
  return job;
}

absl::Status AddRowJobs(const Checkpoint& checkpoint, const WeightSpec& spec, DType dtype,
                        char* data, Runtime& runtime, std::vector<ReadJob>& jobs) {
  for (const WeightPart& part : spec.parts) {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint.Find(part.tensor));
    const int64_t cols = part.block.col_end - part.block.col_begin;
    if (cols == 0) continue;
    const int64_t widest = cols * std::max(SizeOf(dtype), SizeOf(tensor->dtype));
    const int64_t rows_per_job = std::max<int64_t>(1, kStagingBytes / widest);
    if (widest > kStagingBytes)
      return absl::UnimplementedError(
          absl::StrCat(part.tensor, ": a row of ", widest, " bytes is past ", kStagingBytes));
    for (int64_t i = 0; i < part.rows(); i += rows_per_job) {
      const Range run = {i, std::min(i + rows_per_job, part.rows())};
      const RowBlock rows = {
          .tensor = tensor,
          .block = {part.block.row_begin + run.begin, part.block.row_begin + run.end,
                    part.block.col_begin, part.block.col_end},
          .dst = data + ((part.dst_row + i) * spec.cols + part.dst_col) * SizeOf(dtype),
          .dtype = dtype};
      jobs.push_back(part.order != nullptr ? OrderedRowJob(checkpoint, part, run, rows, runtime)
                                           : RowJob(checkpoint, rows, runtime));
    }
  }
  return absl::OkStatus();
}

// Whether a dense weight of the table loses bits as it loads.
absl::StatusOr<bool> Narrows(const Checkpoint& checkpoint, const WeightSpec& spec, DType dtype) {
  for (const WeightPart& part : spec.parts) {
    ASSIGN_OR_RETURN(const TensorEntry* tensor, checkpoint.Find(part.tensor));
    if (SizeOf(tensor->dtype) > SizeOf(dtype)) return true;
  }
  return false;
}

// What packed weights are loaded with. On a GPU the workspace, idle meanwhile, takes raw blocks.
absl::StatusOr<PackedLoad> PackedLoadOf(const PackedSource& source, const Arena& arena,
                                        Runtime& runtime, const Ops& ops) {
  PackedLoad load = {.source = &source, .runtime = &runtime, .ops = &ops};
  if (runtime.device() == Device::kCpu) return load;
  load.device_staging = static_cast<char*>(arena.Find("workspace"));
  if (arena.SizeOf("workspace") >= kStagingBytes) return load;
  return absl::InternalError(absl::StrCat("workspace of ", arena.SizeOf("workspace"),
                                          " bytes, loading needs ", kStagingBytes));
}

absl::Status LoadCheckpoint(const ModelConfig& config, const std::vector<WeightSpec>& table,
                            const LoadOptions& options, const Arena& arena, Runtime& runtime,
                            const Ops& ops) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options.model_dir));
  RETURN_IF_ERROR(CheckTensors(config, checkpoint));
  const std::unique_ptr<PackedSource> source = NewCheckpointSource(checkpoint);
  std::vector<ReadJob> jobs;
  bool narrowed = false;
  for (const WeightSpec& spec : table) {
    auto* data = static_cast<char*>(arena.Find(spec.name));
    if (spec.is_packed()) {
      ASSIGN_OR_RETURN(const PackedLoad load, PackedLoadOf(*source, arena, runtime, ops));
      RETURN_IF_ERROR(AddPackedJobs(spec, data, load, jobs));
      continue;
    }
    const DType dtype = DTypeOf(spec.role, options);
    RETURN_IF_ERROR(AddRowJobs(checkpoint, spec, dtype, data, runtime, jobs));
    ASSIGN_OR_RETURN(const bool narrows, Narrows(checkpoint, spec, dtype));
    narrowed = narrowed || narrows;
  }
  if (narrowed)
    LogWarning("weights are rounded from f32 to ", Name(options.matrix_dtype), " as they load");
  return RunJobs(jobs, {options.reader_threads, options.progress}, runtime);
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

// Rows of a matrix whose local order is `order`, negative: zeros.
absl::Status FillRows(const RandomFillArgs& all, const std::vector<int32_t>& order,
                      Runtime& runtime, const Ops& ops) {
  RandomFillArgs fill = all;
  fill.rows = 1;
  for (const int32_t row : order) {
    fill.first_row = row;
    fill.scale = row < 0 ? 0.f : all.scale;  // and no offset: zeros
    RETURN_IF_ERROR(ops.random_fill(fill, runtime.main_stream()));
    fill.dst = static_cast<char*>(fill.dst) + fill.dst_stride * SizeOf(fill.dtype);
  }
  return absl::OkStatus();
}

absl::Status FillDense(const WeightSpec& spec, DType dtype, char* data, Runtime& runtime,
                       const Ops& ops) {
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
    if (part.order != nullptr) {
      RETURN_IF_ERROR(FillRows(fill, *part.order, runtime, ops));
      continue;
    }
    RETURN_IF_ERROR(ops.random_fill(fill, runtime.main_stream()));
  }
  return absl::OkStatus();
}

// Dense weights on the device; packed ones as if read from a file of random words.
absl::Status FillDummy(const std::vector<WeightSpec>& table, const LoadOptions& options,
                       const Arena& arena, Runtime& runtime, const Ops& ops) {
  int64_t total = 0, done = 0;
  const std::unique_ptr<PackedSource> source = NewDummySource();
  std::vector<ReadJob> jobs;
  for (const WeightSpec& spec : table) {
    if (!spec.is_packed()) total += spec.bytes(DTypeOf(spec.role, options));
    if (!spec.is_packed()) continue;
    ASSIGN_OR_RETURN(const PackedLoad load, PackedLoadOf(*source, arena, runtime, ops));
    RETURN_IF_ERROR(AddPackedJobs(spec, static_cast<char*>(arena.Find(spec.name)), load, jobs));
  }
  for (const ReadJob& job : jobs) total += job.bytes;
  for (const WeightSpec& spec : table) {
    if (spec.is_packed()) continue;
    const DType dtype = DTypeOf(spec.role, options);
    RETURN_IF_ERROR(
        FillDense(spec, dtype, static_cast<char*>(arena.Find(spec.name)), runtime, ops));
    done += spec.bytes(dtype);
    if (options.progress) options.progress(done, total);
  }
  RETURN_IF_ERROR(runtime.Synchronize(runtime.main_stream()));
  if (jobs.empty()) return absl::OkStatus();
  const auto progress = [&](int64_t more, int64_t) {
    if (options.progress) options.progress(done + more, total);
  };
  return RunJobs(jobs, {options.reader_threads, progress}, runtime);
}

Weight PackedWeightOf(const WeightSpec& spec, const char* data) {
  const PackedShape shape = spec.packed_shape();
  const PackedOffsets at = PackedOffsetsOf(shape);
  Weight weight = {.rows = spec.rows, .cols = spec.cols};
  weight.packed = {.bits = shape.bits,
                   .n = shape.n,
                   .k = shape.k,
                   .groups = shape.groups,
                   .group = spec.packed.inputs->group,
                   .values = data,
                   .scales = data + at.scales,
                   .zeros = shape.zeros ? data + at.zeros : nullptr};
  if (shape.ragged)
    weight.packed.group_of_step = reinterpret_cast<const uint16_t*>(data + at.steps);
  if (shape.ordered) weight.places = {reinterpret_cast<const int32_t*>(data + at.order), shape.k};
  return weight;
}

}  // namespace

absl::StatusOr<WeightMap> LoadWeights(const ModelConfig& config,
                                      const std::vector<WeightSpec>& table,
                                      const LoadOptions& options, const Arena& arena,
                                      Runtime& runtime, const Ops& ops) {
  WeightMap weights;
  for (const WeightSpec& spec : table) {
    const DType dtype = DTypeOf(spec.role, options);
    const auto* data = static_cast<const char*>(arena.Find(spec.name));
    if (data == nullptr && spec.bytes(dtype) > 0)
      return absl::InternalError(absl::StrCat(spec.name, ": not in the memory layout"));
    weights.Add(spec.name,
                spec.is_packed()
                    ? PackedWeightOf(spec, data)
                    : Weight{.data = data, .rows = spec.rows, .cols = spec.cols, .dtype = dtype});
  }
  if (options.dummy) {
    RETURN_IF_ERROR(FillDummy(table, options, arena, runtime, ops));
  } else {
    RETURN_IF_ERROR(LoadCheckpoint(config, table, options, arena, runtime, ops));
  }
  return weights;
}

}  // namespace tessera
