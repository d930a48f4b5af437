#include "model/config.h"

#include <gmock/gmock.h>

#include "common/check.h"

namespace wuneng::model {
namespace {

using testing::HasSubstr;

std::string problem(const ModelConfig& config) {
  try {
    check(config);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

TEST(ModelConfig, AcceptsTheDefaultAndEitherKindOfHeadAlone) {
  ModelConfig config;
  EXPECT_EQ(problem(config), "");
  config.state.heads = 0;
  EXPECT_EQ(problem(config), "");
  config.state.heads = 2;
  config.attention.heads = 0;
  EXPECT_EQ(problem(config), "");
}

TEST(ModelConfig, RefusesALayerWithoutHeads) {
  ModelConfig config;
  config.attention.heads = config.state.heads = 0;
  EXPECT_THAT(problem(config), HasSubstr("model.attention.heads = 0 and model.state.heads = 0"));
}

TEST(ModelConfig, NamesTheNearestNumbersOfKeyValueHeads) {
  ModelConfig config;
  config.attention.heads = 12;
  config.attention.kv_heads = 5;
  EXPECT_THAT(problem(config),
              HasSubstr("model.attention.kv_heads = 5: must divide model.attention.heads = 12; "
                        "the nearest choices are 4 and 6"));
  config.attention.kv_heads = 24;
  EXPECT_THAT(problem(config),
              HasSubstr("model.attention.kv_heads = 24: must be at most model.attention.heads = 12"));
  for (const std::int64_t valid : {0, 1, 2, 3, 4, 6, 12}) {
    config.attention.kv_heads = valid;
    EXPECT_EQ(problem(config), "") << valid;
  }
}

TEST(ModelConfig, IgnoresTheShapeOfAttentionThatIsOff) {
  ModelConfig config;
  config.attention = {.heads = 0, .kv_heads = 3, .head_size = 33};
  EXPECT_EQ(problem(config), "");
}

TEST(ModelConfig, RefusesOddAttentionHeads) {
  ModelConfig config;
  config.attention.head_size = 33;
  EXPECT_THAT(problem(config), HasSubstr("model.attention.head_size = 33: must be even"));
  EXPECT_THAT(problem(config), HasSubstr("the nearest is 34"));
  config.attention.head_size = 0;
  EXPECT_THAT(problem(config), HasSubstr("model.attention.head_size = 0"));
}

TEST(ModelConfig, RefusesSizesBelowOne) {
  for (std::int64_t ModelConfig::*size :
       {&ModelConfig::width, &ModelConfig::layers, &ModelConfig::vocab_size}) {
    ModelConfig config;
    config.*size = 0;
    EXPECT_THAT(problem(config), HasSubstr(" = 0: must be at least 1"));
  }
  ModelConfig config;
  config.attention.heads = -1;
  EXPECT_THAT(problem(config), HasSubstr("model.attention.heads = -1"));
  config = {};
  config.state.heads = -1;
  EXPECT_THAT(problem(config), HasSubstr("model.state.heads = -1"));
}

TEST(ModelConfig, ResolvesTheHiddenSizeOfTheFeedForward) {
  FeedForwardConfig swiglu;
  for (std::int64_t width = 1; width <= 2048; ++width) {
    std::int64_t expected = 64;
    while (3 * expected < 8 * width) expected += 64;
    ASSERT_EQ(swiglu.resolved_hidden(width), expected) << width;
  }
  EXPECT_EQ((FeedForwardConfig{FeedForwardKind::rwkv, 0}.resolved_hidden(96)), 384);
  EXPECT_EQ((FeedForwardConfig{FeedForwardKind::rwkv, 100}.resolved_hidden(96)), 100);
  EXPECT_EQ((FeedForwardConfig{FeedForwardKind::swiglu, 100}.resolved_hidden(96)), 100);
}

TEST(ModelConfig, ResolvesKeyValueHeads) {
  EXPECT_EQ((AttentionConfig{.heads = 6, .kv_heads = 0}.resolved_kv_heads()), 6);
  EXPECT_EQ((AttentionConfig{.heads = 6, .kv_heads = 2}.resolved_kv_heads()), 2);
}

TEST(CheckSplit, NamesWhatRanksCannotShareAndTheNumbersThatCan) {
  ModelConfig config;
  config.width = 64;
  config.attention = {.heads = 8, .kv_heads = 2, .head_size = 16};  // of which four ranks hold two copies
  config.state.heads = 4;
  for (const std::int64_t ranks : {1, 2, 4}) EXPECT_NO_THROW(check_split(config, ranks));
  const auto split_problem = [&](std::int64_t ranks) {
    try {
      check_split(config, ranks);
      return std::string();
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(split_problem(8),
            "parallel.tensor = 8: does not divide model.state.heads = 4; numbers of ranks that this "
            "model can "
            "be split over: 1, 2, 4");
  config.middle = {.mode = MiddleMode::mixed, .heads = 6};  // two of each kind
  EXPECT_EQ(split_problem(2), "");
  EXPECT_NE(split_problem(4).find("model.middle.heads of each kind (mixed) = 2"), std::string::npos);
  config.middle.heads = 4;
  EXPECT_NE(split_problem(2).find("1"), std::string::npos);
}

}  // namespace
}  // namespace wuneng::model
