// tessera-worker: one rank of a pool, started by mpirun or srun.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/flags/flag.h>
#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <mpi.h>

#include "common/log.h"
#include "common/program_flags.h"
#include "common/status_macros.h"
#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "model/file.h"
#include "worker/worker.h"
#ifdef TESSERA_WITH_CUDA
#include "parallel/nccl_communicator.h"
#endif

ABSL_FLAG(std::string, coordinator, "", "Address of the coordinator, HOST:PORT. Required.");
ABSL_FLAG(std::string, launch_secret_file, "",
          "File that holds the secret of this launch, as given to the coordinator. Required.");
ABSL_FLAG(std::string, backend, "cpu", "Device this rank computes on: cpu or cuda.");
ABSL_FLAG(int, threads, 0,
          "CPU threads of this rank; 0: the host's cores divided by the ranks on it, at least 1.");
ABSL_FLAG(int64_t, trace_context, 0,
          "After loading, log the device time of every op of one decode step with this many tokens "
          "cached; 0: off.");
ABSL_FLAG(
    std::string, tls_ca, "",
    "PEM file of the authorities that may sign the coordinator's certificate; empty: no TLS.");

namespace tessera {
namespace {

constexpr int kExitUsage = 64;  // sysexits EX_USAGE
constexpr int kExitFailed = 70;
constexpr int64_t kMaxFlagFileBytes = 1 << 20;

struct PoolPlace {
  int rank = 0, ranks = 1;
  int local_rank = 0, local_ranks = 1;  // among the ranks of this host
};

absl::StatusOr<PoolPlace> FindPlace() {
  PoolPlace place;
  MPI_Comm host = MPI_COMM_NULL;
  const bool ok = MPI_Comm_rank(MPI_COMM_WORLD, &place.rank) == MPI_SUCCESS &&
                  MPI_Comm_size(MPI_COMM_WORLD, &place.ranks) == MPI_SUCCESS &&
                  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                                      &host) == MPI_SUCCESS &&
                  MPI_Comm_rank(host, &place.local_rank) == MPI_SUCCESS &&
                  MPI_Comm_size(host, &place.local_ranks) == MPI_SUCCESS &&
                  MPI_Comm_free(&host) == MPI_SUCCESS;
  if (!ok) return absl::InternalError("MPI does not tell this rank's place");
  return place;
}

absl::StatusOr<RuntimeOptions> ChooseDevice(const PoolPlace& place) {
  RuntimeOptions options;
  const std::string backend = absl::GetFlag(FLAGS_backend);
  if (backend != "cpu" && backend != "cuda")
    return absl::InvalidArgumentError(
        absl::StrCat("--backend \"", backend, "\": want cpu or cuda"));
  options.device = backend == "cuda" ? Device::kCuda : Device::kCpu;
  options.device_index = place.local_rank;
  const int threads = absl::GetFlag(FLAGS_threads);
  if (threads < 0 || threads > 1024)
    return absl::InvalidArgumentError(absl::StrCat("--threads ", threads, ": want 0..1024"));
  const auto cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  options.cpu_threads = threads > 0 ? threads : std::max(1, cores / place.local_ranks);
  return options;
}

absl::StatusOr<WorkerOptions> ReadFlags(const PoolPlace& place) {
  WorkerOptions options;
  options.pool_rank = place.rank;
  options.pool_ranks = place.ranks;
  options.trace_context = absl::GetFlag(FLAGS_trace_context);
  if (options.trace_context < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--trace-context ", options.trace_context, ": want 0 or more tokens"));
  }
  options.link.address = absl::GetFlag(FLAGS_coordinator);
  if (options.link.address.empty())
    return absl::InvalidArgumentError("--coordinator: want HOST:PORT");
  const std::string secret_file = absl::GetFlag(FLAGS_launch_secret_file);
  if (secret_file.empty()) return absl::InvalidArgumentError("--launch-secret-file: want a file");
  ASSIGN_OR_RETURN(const std::string secret, ReadFile(secret_file, kMaxFlagFileBytes));
  options.link.secret = std::string(absl::StripAsciiWhitespace(secret));
  if (options.link.secret.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("--launch-secret-file: ", secret_file, " is empty"));
  if (const std::string ca_file = absl::GetFlag(FLAGS_tls_ca); !ca_file.empty()) {
    ASSIGN_OR_RETURN(options.link.tls_root_pem, ReadFile(ca_file, kMaxFlagFileBytes));
    if (!absl::StrContains(options.link.tls_root_pem, "-----BEGIN CERTIFICATE-----"))
      return absl::InvalidArgumentError(
          absl::StrCat("--tls-ca: ", ca_file, " holds no PEM certificate"));
  }
  return options;
}

absl::Status RunRank() {
  ASSIGN_OR_RETURN(const PoolPlace place, FindPlace());
  SetLogName(absl::StrCat("worker rank=", place.rank));
  ASSIGN_OR_RETURN(WorkerOptions options, ReadFlags(place));
  ASSIGN_OR_RETURN(const RuntimeOptions device, ChooseDevice(place));
  ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, NewRuntime(device));
  ASSIGN_OR_RETURN(const Ops* ops, OpsFor(device.device));
  options.local_ranks = place.local_ranks;
  return Worker(std::move(options), *runtime, *ops).Run();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const std::vector<std::string> rest = tessera::ParseProgramFlags(
      {.name = "tessera-worker",
       .description =
           "One rank of a Tessera pool. Start with mpirun or srun, one process per GPU:\n"
           "  mpirun -n 4 tessera-worker --backend cuda --coordinator HOST:PORT "
           "--launch-secret-file FILE",
       .source = "worker/main.cc"},
      argc, argv);
  if (!rest.empty()) {
    std::fprintf(stderr, "tessera-worker: argument \"%s\": only flags are taken\n",
                 rest[0].c_str());
    return tessera::kExitUsage;
  }
#ifdef TESSERA_WITH_CUDA
  tessera::KeepNvlinkMulticastOff();  // before any thread: it sets the environment
#endif
  int level = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS ||
      level < MPI_THREAD_FUNNELED) {
    std::fprintf(stderr, "tessera-worker: MPI gives thread level %d, FUNNELED is needed\n", level);
    return tessera::kExitFailed;
  }
  const absl::Status status = tessera::RunRank();
  if (!status.ok()) {
    // Peers may be inside a collective with this rank: end the whole job, never wait in
    // MPI_Finalize.
    tessera::LogError(status.ToString());
    _exit(tessera::kExitFailed);
  }
  MPI_Finalize();
  return 0;
}
