// D = A B^T, or D += A B^T (wgmma m64nNk16, sm_90a): A from registers, B rows of a shared-memory
// tile, both 16-bit floats; sums in fp32. Fragments as in kernels/device/wgmma.cuh.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tessera {

#define TESSERA_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TESSERA_D16(i) TESSERA_D4(i), TESSERA_D4((i) + 4), TESSERA_D4((i) + 8), TESSERA_D4((i) + 12)
#define TESSERA_D64(i) \
  TESSERA_D16(i), TESSERA_D16((i) + 16), TESSERA_D16((i) + 32), TESSERA_D16((i) + 48)
#define TESSERA_N128                                                                              \
  TESSERA_N64                                                                                     \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
  "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,"  \
  "%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,"    \
  "%126,%127"
#define TESSERA_SUMS8 TESSERA_D4(0), TESSERA_D4(4)
#define TESSERA_SUMS16 TESSERA_D16(0)
#define TESSERA_SUMS32 TESSERA_D16(0), TESSERA_D16(16)
#define TESSERA_SUMS64 TESSERA_D64(0)
#define TESSERA_SUMS128 TESSERA_D64(0), TESSERA_D64(64)
#define TESSERA_N8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define TESSERA_N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define TESSERA_N32 TESSERA_N16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TESSERA_N64                                                                           \
  TESSERA_N32                                                                                 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TESSERA_PRODUCT(columns, type, count, a0, a1, a2, a3, b_at, added)                        \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type               \
               " {" TESSERA_N##count "}, {%" a0 ", %" a1 ", %" a2 ", %" a3 "}, %" b_at ", " added \
                                     ", 1, 1, 0;"                                                 \
               : TESSERA_SUMS##count                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// `count` sums of a lane; operands a and b come behind them. kFresh: D = A B^T.
#define TESSERA_PRODUCTS(columns, count, a0, a1, a2, a3, b_at)                                 \
  template <typename T, bool kFresh>                                                           \
  __device__ __forceinline__ void RegisterTimesTokens(float(&d)[count], const uint32_t(&a)[4], \
                                                      uint64_t b) {                            \
    constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;                                   \
    if constexpr (kBf16 && kFresh)                                                             \
      TESSERA_PRODUCT(columns, "bf16", count, a0, a1, a2, a3, b_at, "0");                      \
    else if constexpr (kBf16)                                                                  \
      TESSERA_PRODUCT(columns, "bf16", count, a0, a1, a2, a3, b_at, "1");                      \
    else if constexpr (kFresh)                                                                 \
      TESSERA_PRODUCT(columns, "f16", count, a0, a1, a2, a3, b_at, "0");                       \
    else                                                                                       \
      TESSERA_PRODUCT(columns, "f16", count, a0, a1, a2, a3, b_at, "1");                       \
  }
TESSERA_PRODUCTS("16", 8, "8", "9", "10", "11", "12")
TESSERA_PRODUCTS("32", 16, "16", "17", "18", "19", "20")
TESSERA_PRODUCTS("64", 32, "32", "33", "34", "35", "36")
TESSERA_PRODUCTS("128", 64, "64", "65", "66", "67", "68")
TESSERA_PRODUCTS("256", 128, "128", "129", "130", "131", "132")
#undef TESSERA_PRODUCTS
#undef TESSERA_PRODUCT
#undef TESSERA_N128
#undef TESSERA_N64
#undef TESSERA_N32
#undef TESSERA_N16
#undef TESSERA_N8
#undef TESSERA_SUMS128
#undef TESSERA_SUMS64
#undef TESSERA_SUMS32
#undef TESSERA_SUMS16
#undef TESSERA_SUMS8
#undef TESSERA_D64
#undef TESSERA_D16
#undef TESSERA_D4

}  // namespace tessera
