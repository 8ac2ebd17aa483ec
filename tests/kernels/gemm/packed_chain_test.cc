#include "kernels/gemm/packed_chain.h"

#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr GemvGpu kH200 = {.sm_count = 132, .shared_bytes = 232448};

// A layer's products with addresses of their own, never read.
class Layer {
 public:
  Layer(int64_t hidden, int64_t inner, int64_t qkv, int bits = 4) {
    products = {Product(hidden, hidden, bits), Product(inner, hidden, bits),
                Product(hidden, inner, bits), Product(qkv, hidden, bits)};
    products[1].gated = true;
    products[1].norm_weight = products[3].norm_weight = &inputs_[2];
    for (size_t i = 0; i < products.size(); ++i) {
      products[i].y = &outputs_[i * kApart];
      products[i].x = i == 0 ? &inputs_[0] : products[i - 1].y;
    }
    products[0].residual = &inputs_[1];
    products[2].residual = products[0].y;
  }
  PackedChainPlan Plan(const GemvGpu& gpu = kH200) const { return PlanPackedChain(gpu, products); }

  std::vector<LinearArgs> products;

 private:
  LinearArgs Product(int64_t n, int64_t k, int bits) {
    return {.packed = {.bits = bits,
                       .n = n,
                       .k = k,
                       .groups = k / 128,
                       .group = 128,
                       .values = &inputs_[3],
                       .scales = &inputs_[4]},
            .t = 1,
            .n = n,
            .k = k,
            .dtype = DType::kBf16,
            .weight_dtype = DType::kBf16,
            .y_dtype = DType::kBf16};
  }
  static constexpr size_t kApart = 64 * 1024;
  char inputs_[8] = {};
  std::vector<char> outputs_ = std::vector<char>(4 * kApart);
};

TEST(PlanPackedChain, JoinsTheProductsOfALayer) {
  for (const int bits : {4, 8}) {
    EXPECT_EQ(Layer(3584, 18944, 4608, bits).Plan().count, 4) << "7B, bits " << bits;
    EXPECT_EQ(Layer(4096, 14336, 6144, bits).Plan().count, 4) << "8B, bits " << bits;
    EXPECT_EQ(Layer(8192, 29568, 10240, bits).Plan().count, 4) << "72B, bits " << bits;
  }
}

TEST(PlanPackedChain, SharesStagesAndFitsTheBlock) {
  for (const auto& [hidden, inner, qkv] :
       {std::array<int64_t, 3>{3584, 18944, 4608}, {4096, 14336, 6144}, {8192, 29568, 10240}}) {
    const PackedChainPlan plan = Layer(hidden, inner, qkv).Plan();
    const PackedGemvPlan& first = plan.products[0];
    EXPECT_GE(first.stages, 3);
    for (int i = 0; i < plan.count; ++i) {
      const PackedGemvPlan& each = plan.products[static_cast<size_t>(i)];
      EXPECT_EQ(each.stages, first.stages);
      EXPECT_EQ(each.stage_bytes, first.stage_bytes);
      EXPECT_EQ(each.sum_slots, first.sum_slots);
      EXPECT_EQ(each.sum_slot_bytes, first.sum_slot_bytes);
      EXPECT_EQ(each.x_bytes, first.x_bytes);
      EXPECT_EQ(each.x_unit_bytes, first.x_unit_bytes);
      EXPECT_EQ(each.norm_bytes, first.norm_bytes);
      EXPECT_EQ(each.shared_bytes, first.shared_bytes);
      EXPECT_LE(each.shared_bytes, kH200.shared_bytes);
      EXPECT_EQ(each.blocks, kH200.sm_count);
    }
  }
}

TEST(PlanPackedChain, KeepsOnlyWhatItNeedsOfX) {
  const PackedGemvPlan down = Layer(3584, 18944, 4608).Plan().products[2];
  EXPECT_EQ(down.strips, 1);
  EXPECT_EQ(down.x_places, 28);
  const PackedGemvPlan of_two = Layer(8192, 29568, 10240).Plan().products[2];
  EXPECT_EQ(of_two.strips, 2);
  EXPECT_EQ(of_two.x_places, of_two.chunks);
}

TEST(PlanPackedChain, NamesTheProductWhoseOutputIsAdded) {
  const PackedChainPlan plan = Layer(3584, 18944, 4608).Plan();
  EXPECT_EQ(plan.residual_from, (std::array<int8_t, 4>{-1, -1, 0, -1}));
  Layer in_place(3584, 18944, 4608);  // o and down write to the same memory
  in_place.products[2].y = in_place.products[0].y;
  in_place.products[3].x = in_place.products[2].y;
  in_place.products[3].residual = in_place.products[2].y;
  in_place.products[3].n = in_place.products[3].packed.n = 3584;
  EXPECT_EQ(in_place.Plan().residual_from, (std::array<int8_t, 4>{-1, -1, 0, 2}));
}

TEST(PlanPackedChain, EndsWhereAProductIsNotFedByTheOneBefore) {
  const auto count_with = [](auto change) {
    Layer layer(3584, 18944, 4608);
    change(layer.products);
    return layer.Plan().count;
  };
  using Products = std::vector<LinearArgs>;
  EXPECT_EQ(count_with([](Products& p) { p[2].x = p[0].x; }), 0);
  EXPECT_EQ(count_with([](Products& p) { p[3].packed.bits = 8; }), 3);
  EXPECT_EQ(count_with([](Products& p) { p[3].packed.zeros = p[0].packed.values; }), 3);
  EXPECT_EQ(count_with([](Products& p) { p[2].dtype = DType::kF16; }), 0);
  EXPECT_EQ(count_with([](Products& p) { p[0].y_dtype = DType::kF32; }), 0);
  EXPECT_EQ(count_with([](Products& p) { p[3].packed.group = 32; }), 3);
  EXPECT_EQ(count_with([](Products& p) { p[1].packed.values = nullptr; }), 0);
  EXPECT_EQ(count_with([](Products& p) { p[0].t = 2; }), 0);
  EXPECT_EQ(count_with([](Products& p) { p[3].n = p[3].packed.n = 1024; }), 3);  // for 128 blocks
  // Adds a part of what another writes.
  EXPECT_EQ(count_with([](Products& p) { p[3].residual = p[0].y; }), 3);
  const uint16_t steps[1] = {};
  EXPECT_EQ(count_with([&](Products& p) { p[3].packed.group_of_step = steps; }), 3);
}

TEST(PlanPackedChain, EndsWhereAProductWritesOverAnother) {
  Layer layer(3584, 18944, 4608);
  layer.products[3].y = layer.products[1].y;
  EXPECT_EQ(layer.Plan().count, 3);
  layer.products[3].y = static_cast<char*>(layer.products[0].y) + 3584 * 2 - 2;
  EXPECT_EQ(layer.Plan().count, 3);
  layer.products[3].y = static_cast<char*>(layer.products[0].y) + 3584 * 2;
  EXPECT_EQ(layer.Plan().count, 4);
}

TEST(PlanPackedChain, JoinsNothingWhereABlockHasTooLittle) {
  EXPECT_EQ(Layer(8192, 29568, 10240).Plan({.sm_count = 132, .shared_bytes = 100 * 1024}).count, 0);
}

}  // namespace
}  // namespace tessera
