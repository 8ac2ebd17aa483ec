// Warpgroup matrix products (wgmma, sm_90a only): 64 rows by kN columns by 16, 16-bit floats from
// shared memory (the left one also from registers), sums in fp32 registers.
//
// Warp w of the four holds rows [16 w, 16 w + 16) of D; in a lane, d[j * 4 + i] is element i of the
// m16n8 tile j of mma.cuh, and a[] is the same fragment as there (PTX ISA, "wgmma.mma_async").
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tessera {

// Shared-memory tiles are arrays of 128-byte rows (64 elements), 16-byte piece i of row r lying at
// piece i ^ (r & 7): what TMA writes with its 128-byte swizzle. They start at multiples of 1024
// bytes, and rows wider than 64 elements are several such arrays ("panels").
constexpr int kPanelElements = 64;
constexpr int kPanelRowBytes = 128;

// Where 16-byte piece `piece` of row `row` lies in a tile of kRows rows, in bytes.
template <int kRows>
__device__ __forceinline__ uint32_t PanelBytes(int row, int piece) {
  return static_cast<uint32_t>((piece / 8 * kRows + row) * kPanelRowBytes +
                               ((piece % 8 ^ (row & 7)) << 4));
}
// The same of a piece below eight, in a panel of any number of rows: fewer instructions.
__device__ __forceinline__ uint32_t PieceBytes(int row, int piece) {
  return static_cast<uint32_t>(row * kPanelRowBytes + ((piece ^ (row & 7)) << 4));
}

// The low word of a matrix descriptor (PTX ISA, "Matrix Descriptor Format") of the tile at
// `address`; what lies `bytes` further on is at + (bytes >> 4). `panel_bytes` is between panels and
// counts only where they run along the columns of D (RegisterTimesRows).
__device__ __forceinline__ uint32_t TileDescriptor(uint32_t address, uint32_t panel_bytes) {
  return (panel_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}
// The whole: 128-byte swizzle, and groups of eight rows 1024 bytes apart.
__device__ __forceinline__ uint64_t MatrixDescriptor(uint32_t tile, uint32_t bytes_on) {
  constexpr uint64_t kHigh = uint64_t{1} << 62 | uint64_t{(8 * kPanelRowBytes) >> 4} << 32;
  return kHigh | (tile + (bytes_on >> 4));
}

// Before the first product, and after registers that products read or add to were written.
__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending of the latest groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of `d` over a wait that it does not know `d` depends on.
template <typename V, int kCount>
__device__ __forceinline__ void PinRegisters(V (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<V, float>)
      asm volatile("" : "+f"(d[i])::"memory");
    else
      asm volatile("" : "+r"(d[i])::"memory");
  }
}

#define TESSERA_WGMMA_D32                                                                   \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31}"

#define TESSERA_WGMMA_D64                                                                   \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,"    \
  "%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

#define TESSERA_WGMMA_4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TESSERA_WGMMA_16(i) \
  TESSERA_WGMMA_4(i), TESSERA_WGMMA_4((i) + 4), TESSERA_WGMMA_4((i) + 8), TESSERA_WGMMA_4((i) + 12)
#define TESSERA_WGMMA_OUT32 TESSERA_WGMMA_16(0), TESSERA_WGMMA_16(16)
#define TESSERA_WGMMA_OUT64 TESSERA_WGMMA_OUT32, TESSERA_WGMMA_16(32), TESSERA_WGMMA_16(48)

// D = A B^T (+ D if `add`), a k of 16: rows of A and of B are rows of their tiles.
#define TESSERA_WGMMA_ROWS(columns, type, count, a_at, b_at, add_at)                      \
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %" add_at                        \
               ", 0;\n\t"                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type       \
               " " TESSERA_WGMMA_D##count ", %" a_at ", %" b_at ", add, 1, 1, 0, 0;\n\t}" \
               : TESSERA_WGMMA_OUT##count                                                 \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <typename T>
__device__ __forceinline__ void RowsTimesRows(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    TESSERA_WGMMA_ROWS("128", "bf16", 64, "64", "65", "66");
  else
    TESSERA_WGMMA_ROWS("128", "f16", 64, "64", "65", "66");
}
template <typename T>
__device__ __forceinline__ void RowsTimesRows(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    TESSERA_WGMMA_ROWS("64", "bf16", 32, "32", "33", "34");
  else
    TESSERA_WGMMA_ROWS("64", "f16", 32, "32", "33", "34");
}
#undef TESSERA_WGMMA_ROWS

// D += A B, a k of 16: A in registers, the k of B being 16 rows of its tile.
#define TESSERA_WGMMA_REGISTER(columns, type, count, a0, a1, a2, a3, b_at)                 \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type        \
               " " TESSERA_WGMMA_D##count ", {%" a0 ", %" a1 ", %" a2 ", %" a3 "}, %" b_at \
                                          ", 1, 1, 1, 1;"                                  \
               : TESSERA_WGMMA_OUT##count                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
template <typename T>
__device__ __forceinline__ void RegisterTimesRows(float (&d)[64], const uint32_t* a, uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    TESSERA_WGMMA_REGISTER("128", "bf16", 64, "64", "65", "66", "67", "68");
  else
    TESSERA_WGMMA_REGISTER("128", "f16", 64, "64", "65", "66", "67", "68");
}
template <typename T>
__device__ __forceinline__ void RegisterTimesRows(float (&d)[32], const uint32_t* a, uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    TESSERA_WGMMA_REGISTER("64", "bf16", 32, "32", "33", "34", "35", "36");
  else
    TESSERA_WGMMA_REGISTER("64", "f16", 32, "32", "33", "34", "35", "36");
}
#undef TESSERA_WGMMA_REGISTER
#undef TESSERA_WGMMA_OUT64
#undef TESSERA_WGMMA_OUT32
#undef TESSERA_WGMMA_16
#undef TESSERA_WGMMA_4
#undef TESSERA_WGMMA_D64
#undef TESSERA_WGMMA_D32

}  // namespace tessera
