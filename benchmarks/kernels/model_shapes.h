// The linear layers of the models that benchmarks time: of a whole model, or a rank's of several
// ("72b/2").
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace tessera {

struct ModelShape {
  const char* name;
  int64_t n, k;  // as in LinearArgs
  bool normed = false, gated = false, bias = false, residual = false;
  bool f32 = false;  // a head: logits in fp32, weights of 16 bits in any format

  int64_t rows() const { return (gated ? 2 : 1) * n; }
};

inline constexpr ModelShape kModelShapes[] = {
    {.name = "7b.qkv", .n = 4608, .k = 3584, .normed = true, .bias = true},
    {.name = "7b.o", .n = 3584, .k = 3584, .residual = true},
    {.name = "7b.gate_up", .n = 18944, .k = 3584, .normed = true, .gated = true},
    {.name = "7b.down", .n = 3584, .k = 18944, .residual = true},
    {.name = "7b.head", .n = 152064, .k = 3584, .normed = true, .f32 = true},
    {.name = "72b.qkv", .n = 10240, .k = 8192, .normed = true, .bias = true},
    {.name = "72b.o", .n = 8192, .k = 8192, .residual = true},
    {.name = "72b.gate_up", .n = 29568, .k = 8192, .normed = true, .gated = true},
    {.name = "72b.down", .n = 8192, .k = 29568, .residual = true},
    {.name = "72b/2.qkv", .n = 5120, .k = 8192, .normed = true, .bias = true},
    {.name = "72b/2.o", .n = 8192, .k = 4096},
    {.name = "72b/2.gate_up", .n = 14784, .k = 8192, .normed = true, .gated = true},
    {.name = "72b/2.down", .n = 8192, .k = 14784},
    {.name = "72b/4.qkv", .n = 2560, .k = 8192, .normed = true, .bias = true},
    {.name = "72b/4.o", .n = 8192, .k = 2048},
    {.name = "72b/4.gate_up", .n = 7392, .k = 8192, .normed = true, .gated = true},
    {.name = "72b/4.down", .n = 8192, .k = 7392},
    {.name = "8b.qkv", .n = 6144, .k = 4096, .normed = true},
    {.name = "8b.o", .n = 4096, .k = 4096, .residual = true},
    {.name = "8b.gate_up", .n = 14336, .k = 4096, .normed = true, .gated = true},
    {.name = "8b.down", .n = 4096, .k = 14336, .residual = true},
    {.name = "0.5b.qkv", .n = 1152, .k = 896, .normed = true, .bias = true},
    {.name = "0.5b.o", .n = 896, .k = 896, .residual = true},
    {.name = "0.5b.gate_up", .n = 4864, .k = 896, .normed = true, .gated = true},
    {.name = "0.5b.down", .n = 896, .k = 4864, .residual = true},
    {.name = "0.5b.head", .n = 151936, .k = 896, .normed = true, .f32 = true},
};

// One of these.
inline const ModelShape& ShapeNamed(std::string_view name) {
  return *std::find_if(std::begin(kModelShapes), std::end(kModelShapes),
                       [&](const ModelShape& s) { return s.name == name; });
}

}  // namespace tessera
