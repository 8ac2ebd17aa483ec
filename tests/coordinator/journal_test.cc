#include "coordinator/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using ::testing::ElementsAre;

CheckedRequest TwoChoices() {
  CheckedRequest request;
  request.prompt = {1, 2, 3};
  request.choices = 2;
  return request;
}

TEST(Journal, ChoicesHaveSequencesInARow) {
  Journal journal;
  const JournalEntry& entry = journal.Open(1, TwoChoices(), 40);
  ASSERT_EQ(entry.choices.size(), 2u);
  EXPECT_EQ(entry.choices[0].sequence, 40u);
  EXPECT_EQ(entry.choices[1].sequence, 41u);
}

TEST(Journal, KeepsTheTokensOfEachChoice) {
  Journal journal;
  journal.Open(1, TwoChoices(), 40);
  journal.Append(1, 0, {7, 8});
  journal.Append(1, 1, {9});
  journal.Append(1, 0, {10});
  EXPECT_THAT(journal.Find(1)->choices[0].tokens, ElementsAre(7, 8, 10));
  EXPECT_EQ(journal.UsageOf(1, 0).completion_tokens(), 3);
  EXPECT_EQ(journal.UsageOf(1, 1).completion_tokens(), 1);
  EXPECT_EQ(journal.UsageOf(1, 1).prompt_tokens(), 3);
}

TEST(Journal, IsFinishedWhenEveryChoiceIs) {
  Journal journal;
  journal.Open(1, TwoChoices(), 40);
  journal.Finish(1, 1, v1::FINISH_REASON_STOP);
  EXPECT_FALSE(journal.AllFinished(1));
  journal.Finish(1, 0, v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(journal.AllFinished(1));
}

TEST(Journal, ClosedEntriesAreGone) {
  Journal journal;
  journal.Open(1, TwoChoices(), 40);
  journal.Close(1);
  EXPECT_EQ(journal.Find(1), nullptr);
  EXPECT_EQ(journal.size(), 0);
}

}  // namespace
}  // namespace tessera
