// MPI's return codes as absl::Status. They are only seen where the communicator's error handler is
// MPI_ERRORS_RETURN.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

namespace tessera {

// OK for MPI_SUCCESS, else kInternal: "what: MPI's text".
absl::Status MpiStatus(int code, absl::string_view what);

}  // namespace tessera

// Returns the Status of an MPI call from the enclosing function unless it succeeded.
#define RETURN_IF_MPI_ERROR(call, what)                                                 \
  do {                                                                                  \
    const int tessera_mpi_code_ = (call);                                               \
    if (tessera_mpi_code_ != 0) return ::tessera::MpiStatus(tessera_mpi_code_, (what)); \
  } while (false)
