// StageRing: how stages of the packed few-row kernel (packed_gemv.h) come to shared memory.
#pragma once

#if __CUDA_ARCH__ >= 900
#include "kernels/gemm/packed_gemv_ring_sm90.cuh"
#else
#include "kernels/gemm/packed_gemv_ring_sm80.cuh"
#endif
