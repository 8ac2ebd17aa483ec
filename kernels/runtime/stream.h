// Where an op runs: the queue and device it is enqueued on. Compiles without CUDA.
#pragma once

#include <cstdint>

struct CUstream_st;
using cudaStream_t = CUstream_st*;  // the same alias as cuda_runtime_api.h declares

namespace tessera {

enum class Device : uint8_t { kCpu, kCuda };

class CpuPool;

// A borrowed queue. Ops on a CUDA stream are enqueued and return at once; ops on the CPU run on
// `pool` before they return. Both run in the order they were given.
struct Stream {
  Device device = Device::kCpu;
  cudaStream_t cuda = nullptr;  // set when device is kCuda
  CpuPool* pool = nullptr;      // set when device is kCpu; outlives the stream
};

}  // namespace tessera
