// Warp-level matrix products (mma.sync, sm_80 and later) of 16-bit floats and of bytes, and what
// feeds them: fragment loads from shared memory and asynchronous copies into it. Also fragment
// stores (sm_90).
//
// Fragments, for lane l with r = l / 4 and c = l % 4 * 2 (PTX ISA, "mma.m16n8k16"):
//   a[0..3]  A[r][c,c+1], A[r + 8][c,c+1], A[r][c + 8,c + 9], A[r + 8][c + 8,c + 9]
//   b0, b1   B[c,c+1][r], B[c + 8,c + 9][r]
//   d[0..3]  D[r][c], D[r][c + 1], D[r + 8][c], D[r + 8][c + 1]
// Of bytes (m16n8k32), with q = l % 4 * 4 and four neighbours in a register, d as above:
//   a[0..3]  A[r][q..], A[r + 8][q..], A[r][q + 16..], A[r + 8][q + 16..]
//   b0, b1   B[q..][r], B[q + 16..][r]
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tessera {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8. Lane l receives
// elements [l / 4][l % 4 * 2, + 1] of each.
__device__ __forceinline__ void LoadMatrices(uint32_t address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// The same, each matrix transposed: lane l receives elements [l % 4 * 2, + 1][l / 4].
__device__ __forceinline__ void LoadMatricesTransposed(uint32_t address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// The transpose of an 8x8 matrix of 16-bit values, lane l holding elements [l / 4][l % 4 * 2, + 1]
// of either.
__device__ __forceinline__ uint32_t TransposeMatrix(uint32_t in) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(in));
  return out;
}

// Stores four 8x8 matrices of 16-bit values, transposed. Lane i holds elements i % 4 * 2 and
// the next of row i / 4 of each, and the address of 16 bytes: of row i % 8 of the transpose of
// matrix i / 8.
__device__ __forceinline__ void StoreMatricesTransposed(uint32_t address, const uint32_t (&m)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
      : "memory");
}

// Two, of lanes 0 to 15's addresses.
__device__ __forceinline__ void StoreMatricesTransposed(uint32_t address, const uint32_t (&m)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(m[0]), "r"(m[1])
               : "memory");
}

// d += a b, accumulated in fp32.
template <typename T>
__device__ __forceinline__ void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1);
template <>
__device__ __forceinline__ void MultiplyAdd<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                           uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void MultiplyAdd<__half>(float (&d)[4], const uint32_t (&a)[4],
                                                    uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = a b + c, all signed; d wraps.
__device__ __forceinline__ void MultiplyAddBytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1, const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}

// Two floats rounded to T in one register, `low` in the low half; and back.
template <typename T>
__device__ __forceinline__ uint32_t PackHalves(float low, float high);
template <>
__device__ __forceinline__ uint32_t PackHalves<__nv_bfloat16>(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <>
__device__ __forceinline__ uint32_t PackHalves<__half>(float low, float high) {
  uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

template <typename T>
__device__ __forceinline__ float2 UnpackHalves(uint32_t packed);
template <>
__device__ __forceinline__ float2 UnpackHalves<__nv_bfloat16>(uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u)};
}
template <>
__device__ __forceinline__ float2 UnpackHalves<__half>(uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

// Copies 16 bytes from device to shared memory, asynchronously; zeros when not `valid` (`from` is
// then not read, but must be an address).
__device__ __forceinline__ void CopyAsync16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `kPending` of this thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void PrefetchToL2(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

// 2^x to about 2 units in the last place; 0 for -infinity.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace tessera
