#include "coordinator/admission.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>

#include "common/check.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

absl::Status CheckRoom(absl::string_view what, int64_t queued, int64_t wanted, int64_t limit) {
  if (queued + wanted <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("queue: ", queued, " ", what, " wait and ",
                                                   wanted, " more pass the limit of ", limit));
}

}  // namespace

absl::Status Admission::Enter(const QueueLoad& load) {
  if (queued_.requests > 0) {
    RETURN_IF_ERROR(CheckRoom("requests", queued_.requests, load.requests, limits_.requests));
    RETURN_IF_ERROR(CheckRoom("prompt tokens", queued_.tokens, load.tokens, limits_.tokens));
    RETURN_IF_ERROR(CheckRoom("bytes", queued_.bytes, load.bytes, limits_.bytes));
  }
  queued_.requests += load.requests;
  queued_.tokens += load.tokens;
  queued_.bytes += load.bytes;
  return absl::OkStatus();
}

void Admission::Leave(const QueueLoad& load) {
  queued_.requests -= load.requests;
  queued_.tokens -= load.tokens;
  queued_.bytes -= load.bytes;
  TESSERA_CHECK(queued_.requests >= 0 && queued_.tokens >= 0 && queued_.bytes >= 0,
                "left more than entered: requests=", queued_.requests);
}

}  // namespace tessera
