// What every layer of a rank shares, and what differs from step to step.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "common/status_macros.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// Products that wait to be enqueued together: a back end may load the weights of one while another
// ends.
struct LinearQueue {
  std::vector<LinearArgs> products;
};

// Borrowed for the life of the model.
struct LayerContext {
  const Ops* ops = nullptr;
  Communicator* tp = nullptr;  // the ranks that hold the other slices of this stage
  Stream stream;
  DType dtype = DType::kF32;  // of activations
  float norm_eps = 0.f;
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
  LinearQueue* queue = nullptr;  // null: products are enqueued at once

  // Enqueues the products that wait. Ahead of what the communicator does, and when a step's layers
  // end.
  absl::Status EnqueueWaiting() const;
  // Enqueues an op, but for products (Multiply() in linear.h), behind those that wait.
  template <typename Args>
  absl::Status Run(Ops::Op<Args> Ops::*op, const Args& args) const {
    RETURN_IF_ERROR(EnqueueWaiting());
    return (ops->*op)(args, stream);
  }
  bool sharded() const { return tp->size() > 1; }
};

// A step's shape and its arrays on the device (kernels/step/prepare_step.h,
// kernels/attention/paged_attention.h).
struct StepInputs {
  int64_t t = 0, s = 0, decode_sequences = 0;
  int64_t max_query = 0, max_context = 0;
  const int32_t* token_ids = nullptr;    // [t]
  const int32_t* positions = nullptr;    // [t]
  const int64_t* kv_index = nullptr;     // [t]
  const int32_t* seq_slot = nullptr;     // [s]
  const int32_t* q_start = nullptr;      // [s + 1]
  const int32_t* context = nullptr;      // [s]
  const int32_t* block_table = nullptr;  // [slots, max_blocks]
  int64_t max_blocks = 0;
};

// The residual stream of a step, [t, d]. On a sharded stage the norm of each block is computed with
// the reduction before it and kept in `normed`; on a single rank it is fused into the matrix that
// follows, or computed before it where several matrices or a quantized one's order need it.
// `normed` has the rows in the order of the matrix that follows, or of each of several in turn
// (ColumnCopies).
struct Residual {
  void* hidden = nullptr;
  void* normed = nullptr;   // sharded, or where such matrices are
  void* partial = nullptr;  // sharded only: a rank's part of a row-parallel product
  void* split = nullptr;    // outputs of matrices that are not merged
  int64_t t = 0, d = 0;
};

}  // namespace tessera
