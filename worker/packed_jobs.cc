#include "worker/packed_jobs.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/gemm/column_places.h"
#include "kernels/gemm/packed_weight.h"

namespace tessera {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kListAlignment = 16;

using Ints = std::shared_ptr<const std::vector<int32_t>>;

// One part of a packed weight as its jobs see it. Shared by them.
struct PartPlan {
  PackedPart part;
  QuantRow row;
  std::shared_ptr<const QuantInputs> inputs;
  Range outputs;      // the file's, in whole words of qweight
  Ints local_rows;    // the local row of outputs.begin + c, negative: none; null: in order
  RepackArgs repack;  // what all jobs have in common
};

int64_t ListBytes(int64_t count) { return AlignUp(count * SizeOf(DType::kI32), kListAlignment); }

std::shared_ptr<const PartPlan> PlanPart(const WeightSpec& spec, const PackedPart& part,
                                         char* weight) {
  auto plan = std::make_shared<PartPlan>();
  plan->part = part;
  plan->row = *FindQuantRow(part.format.method, part.format.bits);
  plan->inputs = spec.packed.inputs;
  plan->outputs = part.rows;
  if (part.order != nullptr) {
    plan->outputs = {0, part.module.n};
    auto rows = std::make_shared<std::vector<int32_t>>(static_cast<size_t>(part.module.n), -1);
    for (size_t i = 0; i < part.order->size(); ++i) {
      const int32_t output = (*part.order)[i];
      if (output >= 0)
        (*rows)[static_cast<size_t>(output)] =
            static_cast<int32_t>(part.dst_row) + static_cast<int32_t>(i);
    }
    plan->local_rows = std::move(rows);
  }
  const int bits = spec.packed.bits;
  plan->repack = {
      .packing = plan->row.packing,
      .file_bits = part.format.bits,
      .first_row = part.dst_row,
      .first_input = plan->inputs->first,
      .values = weight,
      .bits = bits,
      .n = spec.rows,
      .k = spec.cols,
      .add = part.format.symmetric ? (1 << (bits - 1)) - (1 << (part.format.bits - 1)) : 0};
  return plan;
}

// A rectangle of a part: outputs, and local columns with the inputs they need.
struct ValueBlock {
  Range outputs;  // from plan.outputs.begin
  Range columns;
  Range inputs;  // of the file, in whole words
};

// The rectangle of qweight that holds it.
TensorBlock RawBlock(const PartPlan& plan, const ValueBlock& block) {
  const int64_t begin = plan.outputs.begin + block.outputs.begin;
  const int64_t end = plan.outputs.begin + block.outputs.end;
  if (plan.row.packing == QuantPacking::kColumns)
    return {block.inputs.begin, block.inputs.end, begin / 8, CeilDiv(end, 8)};
  const int64_t bits = plan.row.bits;
  return {block.inputs.begin * bits / 32, CeilDiv(block.inputs.end * bits, 32), begin, end};
}

int64_t RawBytes(const TensorBlock& raw) {
  return (raw.row_end - raw.row_begin) * (raw.col_end - raw.col_begin) * kWordBytes;
}

// Staging of a block: the raw words, then the lists.
struct Places {
  int64_t inputs = 0, rows = 0, bytes = 0;
};
Places PlacesOf(const PartPlan& plan, const ValueBlock& block, const TensorBlock& raw) {
  Places at;
  at.inputs = AlignUp(RawBytes(raw), kListAlignment);
  at.rows = at.inputs + (plan.inputs->in_order() ? 0 : ListBytes(plan.inputs->k));
  at.bytes = at.rows + (plan.local_rows == nullptr ? 0 : ListBytes(block.outputs.size()));
  return at;
}

// The file's inputs that columns [columns.begin, columns.end) need, in whole words.
Range InputsOf(const PartPlan& plan, Range columns) {
  Range inputs = {plan.inputs->first + columns.begin, plan.inputs->first + columns.end};
  if (!plan.inputs->in_order()) {
    inputs = {plan.part.module.k, 0};
    for (const int32_t i : plan.inputs->source) {
      if (i < 0) continue;
      inputs = {std::min<int64_t>(inputs.begin, i), std::max<int64_t>(inputs.end, i + 1)};
    }
  }
  const int64_t unit = plan.row.file_unit_k;
  return {inputs.begin / unit * unit, std::min(AlignUp(inputs.end, unit), plan.part.module.k)};
}

ReadJob ValueJob(const std::shared_ptr<const PartPlan>& plan, const ValueBlock& block,
                 const PackedLoad& load) {
  const TensorBlock raw = RawBlock(*plan, block);
  const Places at = PlacesOf(*plan, block, raw);
  ReadJob job;
  job.bytes = RawBytes(raw);
  job.read = [=](char* staging) -> absl::Status {
    RETURN_IF_ERROR(load.source->Values(plan->part, raw, reinterpret_cast<uint32_t*>(staging)));
    if (!plan->inputs->in_order())
      std::memcpy(staging + at.inputs, plan->inputs->source.data(),
                  plan->inputs->source.size() * sizeof(int32_t));
    if (plan->local_rows != nullptr)
      std::memcpy(staging + at.rows, plan->local_rows->data() + block.outputs.begin,
                  static_cast<size_t>(block.outputs.size()) * sizeof(int32_t));
    return absl::OkStatus();
  };
  job.place = [=](const char* staging) -> absl::Status {
    const Stream& stream = load.runtime->side_stream();
    const char* base = staging;
    if (load.runtime->device() == Device::kCuda) {
      RETURN_IF_ERROR(load.runtime->Copy(load.device_staging, staging, at.bytes, stream));
      base = load.device_staging;
    }
    RepackArgs args = plan->repack;
    args.raw = reinterpret_cast<const uint32_t*>(base);
    args.raw_rows = raw.row_end - raw.row_begin;
    args.raw_stride = raw.col_end - raw.col_begin;
    args.raw_k = block.inputs.begin;
    args.raw_n = plan->outputs.begin + block.outputs.begin;
    args.outputs = block.outputs.size();
    args.first_row += block.outputs.begin;
    if (plan->local_rows != nullptr) args.rows = reinterpret_cast<const int32_t*>(base + at.rows);
    if (!plan->inputs->in_order()) args.inputs = reinterpret_cast<const int32_t*>(base + at.inputs);
    args.j_begin = block.columns.begin;
    args.j_end = block.columns.end;
    return load.ops->repack(args, stream);
  };
  return job;
}

// Cuts a part into blocks that fit a staging buffer: columns in runs of whole packed blocks where
// the inputs are in order, else outputs in runs with all their inputs.
absl::Status AddValueJobs(const std::shared_ptr<const PartPlan>& plan, const PackedLoad& load,
                          std::vector<ReadJob>& jobs) {
  const PartPlan& p = *plan;
  if (p.outputs.size() == 0 || p.inputs->k == 0) return absl::OkStatus();
  // Later runs of columns are as long: they begin at the same place of a word.
  const auto fits = [&](int64_t outputs, int64_t columns) {
    const ValueBlock block = {{0, outputs}, {0, columns}, InputsOf(p, {0, columns})};
    return PlacesOf(p, block, RawBlock(p, block)).bytes <= kStagingBytes;
  };
  int64_t outputs = p.outputs.size(), columns = p.inputs->k;
  const int64_t block = PackedBlock(p.repack.bits);
  if (p.inputs->in_order()) {
    while (columns > block && !fits(outputs, columns))
      columns = AlignUp(CeilDiv(columns, 2), block);
  }
  while (outputs > kQuantUnitN && !fits(outputs, columns))
    outputs = AlignUp(CeilDiv(outputs, 2), kQuantUnitN);
  if (!fits(outputs, columns)) {
    return absl::UnimplementedError(absl::StrCat(p.part.module.name, ": ", p.part.module.k,
                                                 " inputs of ", kQuantUnitN,
                                                 " outputs are past a buffer of ", kStagingBytes));
  }
  for (int64_t n = 0; n < p.outputs.size(); n += outputs) {
    for (int64_t j = 0; j < p.inputs->k; j += columns) {
      const Range run = {j, std::min(j + columns, p.inputs->k)};
      jobs.push_back(ValueJob(
          plan, {{n, std::min(n + outputs, p.outputs.size())}, run, InputsOf(p, run)}, load));
    }
  }
  return absl::OkStatus();
}

// The outputs of the file that a part takes scales of, in file order.
Range OutputsOf(const PackedPart& part) {
  return part.order != nullptr ? Range{0, part.module.n} : part.rows;
}

// Calls use(local row, place of its output in `outputs`) for every local row that has an output.
template <typename Use>
void ForEachRow(const PackedPart& part, Use use) {
  const int64_t begin = OutputsOf(part).begin;
  for (int64_t i = 0; i < part.count(); ++i) {
    const int64_t output =
        part.order != nullptr ? (*part.order)[static_cast<size_t>(i)] : part.rows.begin + i;
    if (output >= 0) use(part.dst_row + i, output - begin);
  }
}

absl::Status ReadScaleRow(const WeightSpec& spec, int32_t group, const PackedSource& source,
                          uint16_t* out) {
  std::fill_n(out, spec.rows, uint16_t{0});
  std::vector<uint16_t> row;
  for (const PackedPart& part : spec.packed.parts) {
    const Range outputs = OutputsOf(part);
    row.resize(static_cast<size_t>(outputs.size()));
    RETURN_IF_ERROR(
        source.Scales(part, {group, group + 1, outputs.begin, outputs.end}, row.data()));
    ForEachRow(part, [&](int64_t local, int64_t at) { out[local] = row[static_cast<size_t>(at)]; });
  }
  return absl::OkStatus();
}

// Zero points of one group of a part's outputs, in file order.
absl::Status ReadZeros(const PackedPart& part, int32_t group, const PackedSource& source,
                       std::vector<uint8_t>& zeros) {
  const QuantRow& row = *FindQuantRow(part.format.method, part.format.bits);
  const int bits = row.bits;
  const Range outputs = OutputsOf(part);
  const int64_t unit = row.file_unit_n, words_a_unit = unit * bits / 32;
  const int64_t first = outputs.begin / unit * unit;
  const TensorBlock block = {group, group + 1, first / unit * words_a_unit,
                             CeilDiv(outputs.end, unit) * words_a_unit};
  std::vector<uint32_t> words(static_cast<size_t>(block.col_end - block.col_begin) + 1, 0);
  RETURN_IF_ERROR(source.Zeros(part, block, words.data()));
  const bool minus_one = part.format.zero_rule == ZeroRule::kMinusOne;
  if (minus_one && bits != 3) {
    uint32_t ones = 0;
    for (int place = 0; place < 32; place += bits) ones |= uint32_t{1} << place;
    for (uint32_t& word : words) word += ones;  // undoes the borrows of the subtraction too
  }
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  zeros.resize(static_cast<size_t>(outputs.size()));
  for (int64_t n = outputs.begin; n < outputs.end; ++n) {
    const int64_t c = n - first;
    uint32_t value = 0;
    if (row.packing == QuantPacking::kColumns) {
      value = words[static_cast<size_t>(c / 8)] >> (4 * (c % 8 / 2 + c % 2 * 4));
    } else {
      const int64_t bit = c * bits;
      const uint64_t pair = words[static_cast<size_t>(bit / 32)] |
                            uint64_t{words[static_cast<size_t>(bit / 32 + 1)]} << 32;
      value = static_cast<uint32_t>(pair >> (bit % 32));
    }
    if (minus_one && bits == 3) value += 1;
    zeros[static_cast<size_t>(n - outputs.begin)] = static_cast<uint8_t>(value & mask);
  }
  return absl::OkStatus();
}

// Whether the zero points of a symmetric part are what that means.
absl::Status CheckSymmetric(const PackedPart& part, const std::vector<uint8_t>& zeros) {
  static std::atomic<bool> warned{false};
  const int middle = 1 << (part.format.bits - 1);
  const int off_by_one = part.format.zero_rule == ZeroRule::kMinusOne ? middle + 1 : middle - 1;
  for (const uint8_t zero : zeros) {
    if (zero == middle) continue;
    if (zero != off_by_one) {
      return absl::DataLossError(absl::StrCat(part.module.name, ".qzeros has zero point ",
                                              int{zero}, ", the config says symmetric, which is ",
                                              middle, " at ", part.format.bits, " bits"));
    }
    if (!warned.exchange(true)) {
      LogWarning(part.module.name, ".qzeros means zero point ", int{zero},
                 " by the config's format and ", middle,
                 " by the other of gptq and gptq_v2; read as symmetric");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadZeroRow(const WeightSpec& spec, int32_t group, const PackedSource& source,
                         uint8_t* out) {
  const int bits = spec.packed.bits;
  std::fill_n(out, PackedZeroStride(bits, spec.rows), uint8_t{0});
  std::vector<uint8_t> zeros;
  for (const PackedPart& part : spec.packed.parts) {
    if (source.HasZeros(part)) {
      RETURN_IF_ERROR(ReadZeros(part, group, source, zeros));
      if (part.format.symmetric) RETURN_IF_ERROR(CheckSymmetric(part, zeros));
    }
    ForEachRow(part, [&](int64_t local, int64_t at) {
      const int zero =
          part.format.symmetric ? 1 << (bits - 1) : int{zeros[static_cast<size_t>(at)]};
      uint8_t& byte = out[local * bits / 8];
      byte = static_cast<uint8_t>(byte | zero << (local * bits % 8));
    });
  }
  return absl::OkStatus();
}

using RowReader = absl::Status (*)(const WeightSpec&, int32_t group, const PackedSource&,
                                   char* row);

// Jobs over the local groups, in runs whose rows of `row_bytes` fit a staging buffer. `dst` null:
// the rows are read, and checked, only.
void AddGroupJobs(const std::shared_ptr<const WeightSpec>& spec, int64_t row_bytes, char* dst,
                  RowReader read, const PackedLoad& load, std::vector<ReadJob>& jobs) {
  const auto groups = static_cast<int64_t>(spec->packed.inputs->groups.size());
  const int64_t run = std::max<int64_t>(1, kStagingBytes / std::max<int64_t>(row_bytes, 1));
  for (int64_t g = 0; g < groups; g += run) {
    const int64_t end = std::min(g + run, groups);
    ReadJob job;
    job.bytes = dst == nullptr ? 0 : (end - g) * row_bytes;
    job.read = [=](char* staging) -> absl::Status {
      for (int64_t i = g; i < end; ++i) {
        RETURN_IF_ERROR(read(*spec, spec->packed.inputs->groups[static_cast<size_t>(i)],
                             *load.source, staging + (i - g) * row_bytes));
      }
      return absl::OkStatus();
    };
    if (dst != nullptr) {
      job.place = [=](const char* staging) {
        return load.runtime->Copy(dst + g * row_bytes, staging, (end - g) * row_bytes,
                                  load.runtime->side_stream());
      };
    }
    jobs.push_back(std::move(job));
  }
}

// Where each input goes among the columns, and the zeros of padding behind it.
std::vector<int32_t> PlacesOfInputs(const WeightSpec& spec) {
  const std::vector<int32_t>& source = spec.packed.inputs->source;
  std::vector<int32_t> places(source.size(), 0);  // at least as many as there are inputs
  for (size_t j = 0; j < source.size(); ++j) {
    if (source[j] < 0) continue;
    const auto next = std::find_if(source.begin() + static_cast<int64_t>(j) + 1, source.end(),
                                   [](int32_t input) { return input >= 0; });
    const auto zeros = static_cast<int32_t>(next - source.begin()) - static_cast<int32_t>(j) - 1;
    TESSERA_CHECK(zeros <= kMaxZerosAfter, spec.name, ": ", zeros, " columns without an input");
    places[static_cast<size_t>(source[j] - spec.packed.first_input)] =
        EncodePlace(static_cast<int32_t>(j), zeros);
  }
  return places;
}

// The lists that the weight is used with: groups of steps, and where its inputs go.
void AddListJob(const std::shared_ptr<const WeightSpec>& spec, const PackedOffsets& at,
                char* weight, const PackedLoad& load, std::vector<ReadJob>& jobs) {
  const PackedShape shape = spec->packed_shape();
  if (!shape.ragged && !shape.ordered) return;
  const int64_t bytes = at.bytes - at.steps;
  ReadJob job;
  job.read = [=](char* staging) -> absl::Status {
    const QuantInputs& inputs = *spec->packed.inputs;
    std::fill_n(staging, bytes, char{0});
    std::memcpy(staging, inputs.group_of_step.data(),
                inputs.group_of_step.size() * sizeof(uint16_t));
    if (shape.ordered) {
      const std::vector<int32_t> places = PlacesOfInputs(*spec);
      std::memcpy(staging + (at.order - at.steps), places.data(), places.size() * sizeof(int32_t));
    }
    return absl::OkStatus();
  };
  job.place = [=](const char* staging) {
    return load.runtime->Copy(weight + at.steps, staging, bytes, load.runtime->side_stream());
  };
  jobs.push_back(std::move(job));
}

}  // namespace

absl::Status AddPackedJobs(const WeightSpec& weight_spec, char* weight, const PackedLoad& load,
                           std::vector<ReadJob>& jobs) {
  const auto spec = std::make_shared<const WeightSpec>(weight_spec);
  const PackedShape shape = spec->packed_shape();
  if (shape.k == 0 || shape.n == 0) return absl::OkStatus();
  const PackedOffsets at = PackedOffsetsOf(shape);
  if (shape.n * SizeOf(DType::kF16) > kStagingBytes)
    return absl::UnimplementedError(absl::StrCat(spec->name, ": ", shape.n, " outputs"));
  for (const PackedPart& part : spec->packed.parts)
    RETURN_IF_ERROR(AddValueJobs(PlanPart(*spec, part, weight), load, jobs));
  AddGroupJobs(
      spec, shape.n * SizeOf(DType::kF16), weight + at.scales,
      [](const WeightSpec& s, int32_t group, const PackedSource& source, char* row) {
        return ReadScaleRow(s, group, source, reinterpret_cast<uint16_t*>(row));
      },
      load, jobs);
  AddGroupJobs(
      spec, PackedZeroStride(shape.bits, shape.n), shape.zeros ? weight + at.zeros : nullptr,
      [](const WeightSpec& s, int32_t group, const PackedSource& source, char* row) {
        return ReadZeroRow(s, group, source, reinterpret_cast<uint8_t*>(row));
      },
      load, jobs);
  AddListJob(spec, at, weight, load, jobs);
  return absl::OkStatus();
}

}  // namespace tessera
