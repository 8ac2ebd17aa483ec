#include "client/generate_call.h"

#include "client/interrupt.h"

namespace tessera {

absl::Status RunGenerate(const Connection& connection, std::unique_ptr<grpc::ClientContext> context,
                         const v1::GenerateRequest& request, GenerateResult& result,
                         const std::function<void(const v1::GenerateEvent&)>& on_event) {
  const CancelOnInterrupt cancel(context.get());
  const auto reader = connection.inference().Generate(context.get(), request);
  absl::Status broken = absl::OkStatus();
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (!broken.ok()) continue;
    broken = result.Add(event);
    if (broken.ok()) {
      on_event(event);
    } else {
      context->TryCancel();
    }
  }
  const absl::Status status = ToAbsl(reader->Finish(), *context);
  if (Interrupted()) return absl::CancelledError("interrupted");
  if (!broken.ok()) return broken;
  if (!status.ok()) return status;
  return result.CheckFinished();
}

absl::StatusOr<bool> HasTokenizer(const Connection& connection, const std::string& name) {
  const auto context = connection.NewContext(absl::Seconds(30));
  const CancelOnInterrupt cancel(context.get());
  v1::ListModelsResponse models;
  const absl::Status status =
      ToAbsl(connection.inference().ListModels(context.get(), {}, &models), *context);
  if (!status.ok()) return status;
  for (const v1::ModelInfo& model : models.models())
    if (model.name() == name) return model.has_tokenizer();
  return true;
}

}  // namespace tessera
