#include "worker/block_pool.h"

#include <set>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(BlockPool, HandsOutEveryBlockOnce) {
  BlockPool pool(5);
  std::set<int32_t> taken;
  while (pool.available() > 0) EXPECT_TRUE(taken.insert(pool.Take()).second);
  EXPECT_EQ(taken, (std::set<int32_t>{0, 1, 2, 3, 4}));
}

TEST(BlockPool, ReturnedBlocksComeBackInOrder) {
  BlockPool pool(4);
  const std::vector<int32_t> two = {pool.Take(), pool.Take()};
  pool.Return(two);
  EXPECT_EQ(pool.available(), 4);
  EXPECT_EQ(pool.Take(), two[0]);
  EXPECT_EQ(pool.Take(), two[1]);
}

TEST(BlockPoolDeathTest, TakingFromAnEmptyPoolIsABug) {
  BlockPool pool(0);
  EXPECT_DEATH(pool.Take(), "no free KV block");
}

}  // namespace
}  // namespace tessera
