#include "parallel/mpi_status.h"

#include <absl/strings/str_cat.h>
#include <mpi.h>

namespace tessera {

absl::Status MpiStatus(int code, absl::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  return absl::InternalError(absl::StrCat(what, ": MPI error ", code, " ",
                                          absl::string_view(text, static_cast<size_t>(length))));
}

}  // namespace tessera
