#include "layers/context.h"

namespace tessera {

absl::Status LayerContext::EnqueueWaiting() const {
  if (queue == nullptr || queue->products.empty()) return absl::OkStatus();
  const LinearSequenceArgs waiting = {.products = queue->products.data(),
                                      .count = static_cast<int>(queue->products.size())};
  const absl::Status status = ops->linear_sequence(waiting, stream);
  queue->products.clear();
  return status;
}

}  // namespace tessera
