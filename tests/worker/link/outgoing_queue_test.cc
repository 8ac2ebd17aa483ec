#include "worker/link/outgoing_queue.h"

#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "proto/cluster.pb.h"

namespace tessera {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

internal::Fatal Message(const std::string& text) {
  internal::Fatal message;
  message.set_message(text);
  return message;
}

TEST(OutgoingQueue, HandsMessagesOutInOrder) {
  OutgoingQueue<internal::Fatal> queue(1000);
  EXPECT_EQ(queue.Push(Message("a")), PushResult::kQueued);
  EXPECT_EQ(queue.Push(Message("b")), PushResult::kQueued);
  EXPECT_EQ(queue.Pop(kPatience)->message(), "a");
  EXPECT_EQ(queue.Pop(kPatience)->message(), "b");
}

TEST(OutgoingQueue, IsBoundedInBytesAndGivesThemBack) {
  // A one-field message of n < 128 bytes takes n + 2.
  OutgoingQueue<internal::Fatal> queue(20);
  EXPECT_EQ(queue.Push(Message(std::string(8, 'x'))), PushResult::kQueued);
  EXPECT_EQ(queue.Push(Message(std::string(9, 'x'))), PushResult::kFull);
  EXPECT_EQ(queue.Push(Message(std::string(8, 'x'))), PushResult::kQueued);
  queue.Pop(kPatience);
  EXPECT_EQ(queue.Push(Message(std::string(8, 'x'))), PushResult::kQueued);
}

TEST(OutgoingQueue, PopOfAnEmptyQueueTimesOut) {
  OutgoingQueue<internal::Fatal> queue(20);
  EXPECT_FALSE(queue.Pop(absl::Milliseconds(1)).has_value());
}

TEST(OutgoingQueue, CloseWakesTheWriterAndRefusesMessages) {
  OutgoingQueue<internal::Fatal> queue(20);
  std::thread writer([&] { EXPECT_FALSE(queue.Pop(absl::Hours(1)).has_value()); });
  queue.Close();
  writer.join();
  EXPECT_EQ(queue.Push(Message("a")), PushResult::kClosed);
}

TEST(OutgoingQueue, FlushWaitsUntilTheWriterComesBack) {
  OutgoingQueue<internal::Fatal> queue(20);
  queue.Push(Message("a"));
  EXPECT_FALSE(queue.Flush(absl::Milliseconds(1)));
  std::thread writer([&] {
    while (!queue.closed()) queue.Pop(absl::Milliseconds(1));
  });
  EXPECT_TRUE(queue.Flush(kPatience));
  queue.Close();
  writer.join();
}

}  // namespace
}  // namespace tessera
