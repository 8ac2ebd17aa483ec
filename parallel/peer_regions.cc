#include "parallel/peer_regions.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"
#include "parallel/mpi_status.h"

namespace tessera {
namespace {

// What a rank tells the others about its region.
struct RegionRecord {
  cudaIpcMemHandle_t handle;  // of the allocation that holds the region
  int64_t offset = 0;         // of the region in it
  int64_t bytes = 0;          // 0: this rank has no region; -1: it could not be shared
};

// An allocation's start, which is where a mapping of it by a peer starts. The driver call is looked
// up at run time, so that nothing links to the driver.
absl::StatusOr<const char*> AllocationStart(const void* inside) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  RETURN_IF_CUDA_ERROR(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &entry, 12000,
                                                        cudaEnableDefault, &found),
                       "looking up cuMemGetAddressRange");
  if (entry == nullptr || found != cudaDriverEntryPointSuccess)
    return absl::InternalError("the driver has no cuMemGetAddressRange");
  CUdeviceptr start = 0;
  size_t size = 0;
  const CUresult result = reinterpret_cast<CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr)>(entry)(
      &start, &size, reinterpret_cast<CUdeviceptr>(inside));
  if (result != CUDA_SUCCESS)
    return absl::InternalError(absl::StrCat("cuMemGetAddressRange: CUDA error ", int{result}));
  return reinterpret_cast<const char*>(start);
}

absl::StatusOr<RegionRecord> Describe(void* region, int64_t bytes) {
  RegionRecord record;
  ASSIGN_OR_RETURN(const char* start, AllocationStart(region));
  RETURN_IF_CUDA_ERROR(cudaIpcGetMemHandle(&record.handle, const_cast<char*>(start)),
                       "sharing the peer region");
  record.offset = static_cast<const char*>(region) - start;
  record.bytes = bytes;
  return record;
}

absl::StatusOr<bool> OnOneHost(MPI_Comm mpi, int ranks) {
  MPI_Comm on_host;
  RETURN_IF_MPI_ERROR(MPI_Comm_split_type(mpi, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &on_host),
                      "peers: finding the ranks of this host");
  int host_ranks = 0;
  const int code = MPI_Comm_size(on_host, &host_ranks);
  MPI_Comm_free(&on_host);
  RETURN_IF_MPI_ERROR(code, "peers: ranks of this host");
  return host_ranks == ranks;
}

// True when `mine` is OK on every rank. Whatever happened locally, each rank comes here, so that
// all agree. Logs this rank's reason.
absl::StatusOr<bool> AllAgree(MPI_Comm mpi, const absl::Status& mine) {
  if (!mine.ok()) LogWarning("peers: all-reduces take NCCL alone: ", mine.message());
  int ok = mine.ok() ? 1 : 0, all = 0;
  RETURN_IF_MPI_ERROR(MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, mpi), "peers: agreeing");
  return all == 1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeerRegions>> PeerRegions::Map(MPI_Comm mpi, void* region,
                                                              int64_t bytes,
                                                              absl::Duration timeout) {
  int rank = 0, ranks = 0;
  RETURN_IF_MPI_ERROR(MPI_Comm_rank(mpi, &rank), "peers: rank");
  RETURN_IF_MPI_ERROR(MPI_Comm_size(mpi, &ranks), "peers: ranks");
  std::unique_ptr<PeerRegions> none;
  if (ranks < 2 || ranks > kMaxPeerRanks) return none;
  ASSIGN_OR_RETURN(const bool one_host, OnOneHost(mpi, ranks));
  if (!one_host) return none;

  absl::StatusOr<RegionRecord> mine = RegionRecord{};
  if (region != nullptr) mine = Describe(region, bytes);
  std::vector<RegionRecord> records(static_cast<size_t>(ranks));
  const RegionRecord sent = mine.ok() ? *mine : RegionRecord{.bytes = -1};
  RETURN_IF_MPI_ERROR(
      MPI_Allgather(&sent, sizeof(sent), MPI_BYTE, records.data(), sizeof(sent), MPI_BYTE, mpi),
      "peers: exchanging handles");
  // Read from the records, so that all ranks take the same way.
  int64_t least_bytes = records[0].bytes, most_bytes = 0;
  for (const RegionRecord& record : records) {
    least_bytes = std::min(least_bytes, record.bytes);
    most_bytes = std::max(most_bytes, record.bytes);
  }
  if (least_bytes == 0 && most_bytes == 0) return none;  // NCCL alone was asked for

  std::unique_ptr<PeerRegions> regions(new PeerRegions());
  regions->timeout_ = timeout;
  regions->group_.rank = rank;
  regions->group_.ranks = ranks;
  regions->group_.cells = PeerRegionCells(ranks, least_bytes);
  regions->group_.spin_limit_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(timeout));
  absl::Status ready = mine.status();
  if (ready.ok() && regions->group_.cells == 0)
    ready = absl::FailedPreconditionError(absl::StrCat("regions have from ", least_bytes, " to ",
                                                       most_bytes, " bytes, one cell takes ",
                                                       PeerRegionBytes(ranks, 1, 1, DType::kU8)));
  if (ready.ok()) ready = regions->InitLocal(region);
  if (ready.ok()) ready = regions->OpenPeers(records.data());
  ASSIGN_OR_RETURN(const bool all_ready, AllAgree(mpi, ready));
  if (!all_ready) return none;
  return regions;
}

absl::Status PeerRegions::InitLocal(void* region) {
  group_.regions[group_.rank] = region;
  const int64_t counters = PeerCountersOffset(group_.ranks, group_.cells);
  RETURN_IF_CUDA_ERROR(cudaMemset(region, 0xff, static_cast<size_t>(counters)),
                       "emptying the peer region");
  RETURN_IF_CUDA_ERROR(cudaMemset(static_cast<char*>(region) + counters, 0,
                                  static_cast<size_t>(group_.cells) * sizeof(uint32_t)),
                       "clearing the peer region's counters");
  void* words = nullptr;
  RETURN_IF_CUDA_ERROR(cudaHostAlloc(&words, 2 * sizeof(uint32_t), cudaHostAllocMapped),
                       "pinned words shared with kernels");
  host_words_ = static_cast<uint32_t*>(words);
  host_words_[0] = host_words_[1] = 0;
  group_.abort_flag = host_words_;
  group_.missing_rank = host_words_ + 1;
  return CudaStatus(cudaDeviceSynchronize(), "emptying the peer region");
}

absl::Status PeerRegions::OpenPeers(const void* records) {
  for (int r = 0; r < group_.ranks; ++r) {
    if (r == group_.rank) continue;
    const RegionRecord& record = static_cast<const RegionRecord*>(records)[r];
    RETURN_IF_CUDA_ERROR(
        cudaIpcOpenMemHandle(&mapped_[r], record.handle, cudaIpcMemLazyEnablePeerAccess),
        absl::StrCat("mapping the peer region of rank ", r));
    group_.regions[r] = static_cast<char*>(mapped_[r]) + record.offset;
  }
  return absl::OkStatus();
}

PeerRegions::~PeerRegions() {
  for (void* base : mapped_) {
    if (base == nullptr) continue;
    const absl::Status closed = CudaStatus(cudaIpcCloseMemHandle(base), "unmapping a peer region");
    if (!closed.ok()) LogError(closed.message());
  }
  if (host_words_ == nullptr) return;
  const absl::Status freed = CudaStatus(cudaFreeHost(host_words_), "freeing pinned words");
  if (!freed.ok()) LogError(freed.message());
}

void PeerRegions::Abort() { __atomic_store_n(host_words_, 1u, __ATOMIC_RELEASE); }

absl::Status PeerRegions::Health() const {
  const uint32_t missing = __atomic_load_n(host_words_ + 1, __ATOMIC_ACQUIRE);
  if (missing == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("rank ", missing - 1,
                                             " did not join a reduction of rank ", group_.rank,
                                             " for ", absl::FormatDuration(timeout_)));
}

}  // namespace tessera
