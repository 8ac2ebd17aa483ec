// Every byte a rank allocates for a model, as named buffers. The planner sums this list; the worker
// allocates exactly it, once, and nothing between ready and unload.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"
#include "model/config.h"
#include "model/shard.h"

namespace tessera {

// What the engine is sized for.
struct EngineLimits {
  int64_t context = 0;          // tokens of one sequence, prompt and output
  int64_t max_sequences = 64;   // decoded together: slots
  int64_t max_step_tokens = 0;  // rows of one step at most, >= max_sequences
  int64_t block_size = 64;      // tokens per KV block, a multiple of 16
  int64_t max_blocks() const { return (context + block_size - 1) / block_size; }  // of one sequence
};

// The device as far as sizes depend on it.
struct DeviceSpec {
  Device device = Device::kCpu;
  int sm_count = 1;
};

enum class BufferKind : uint8_t {
  kWeights,
  kKv,
  kActivations,
  kSampling,       // logits, penalties' counts, results
  kWorkspace,      // kernels' scratch
  kCommunication,  // what peers touch
};
absl::string_view Name(BufferKind kind);

struct BufferSpec {
  std::string name;
  BufferKind kind = BufferKind::kWeights;
  int64_t bytes = 0;  // as allocated: rounded up to kBufferAlignment
};

inline constexpr int64_t kBufferAlignment = 256;

// The workspace of a GPU rank with quantized weights is no smaller: while they load, it holds the
// raw block that is repacked.
inline constexpr int64_t kRawBlockBytes = int64_t{16} << 20;

// Rows up to which a reduction goes peer to peer; larger ones take NCCL.
inline constexpr int64_t kPeerRows = 16;

struct LayoutInput {
  ModelConfig config;
  Shard shard;
  EngineLimits limits;
  DeviceSpec device;
  DType dtype = DType::kF32;  // activations and KV; on CUDA the dense weights too
  int64_t kv_blocks = 0;
};

// Element type of weight matrices and embeddings in memory: the checkpoint's own on the CPU, which
// converts as it computes; `input.dtype` on CUDA. Norm weights and biases have `input.dtype`
// everywhere.
DType MatrixDType(const LayoutInput& input);

// In allocation order: weights as WeightTable() lists them, then the rest.
// Routed experts are counted, each sliced over the tensor-parallel ranks, though no engine runs
// them. kInvalidArgument: a limit out of its range, named with its value.
absl::StatusOr<std::vector<BufferSpec>> MemoryLayout(const LayoutInput& input);

// Bytes of one KV block on this rank: k and v of its layers and kv heads.
int64_t KvBlockBytes(const LayoutInput& input);

int64_t TotalBytes(const std::vector<BufferSpec>& layout);

// Device memory that the CUDA context, NCCL and cuBLAS take beside the layout; 0 on the CPU.
// Calibrated on the H200 (docs/memory.md).
int64_t ReserveBytes(const DeviceSpec& device, const ParallelShape& shape);

}  // namespace tessera
