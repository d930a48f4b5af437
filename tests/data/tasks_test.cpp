// Each task against a slow solver that reads nothing but the tokens, and the facts of its published
// distribution.
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "tests/data/task_support.h"

namespace wuneng::data {
namespace {

// ---- multi-query associative recall ----

// The answers, from the pairs at the beginning; `fillers` are 0.
Numbers solve_mqar(const Numbers& tokens, std::size_t pairs) {
  std::map<std::int64_t, std::int64_t> value_of;
  for (std::size_t i = 0; i < pairs; ++i) value_of[tokens[2 * i]] = tokens[2 * i + 1];
  Numbers answers(tokens.size(), -1);
  for (std::size_t t = 2 * pairs; t < tokens.size(); ++t)
    if (value_of.contains(tokens[t])) answers[t] = value_of[tokens[t]];
  return answers;
}

TEST(Mqar, QueriesAreAnsweredByTheirPairs) {
  for (const auto& [length, pairs] : {std::pair{64, 4}, {32, 8}, {16, 1}}) {
    const Data data(config_of(TaskName::mqar, length, {.vocabulary = 130, .count = pairs}));
    for (const Row& row : data.train_rows(200)) {
      const auto K = static_cast<std::size_t>(pairs);
      EXPECT_EQ(row.targets, solve_mqar(row.tokens, K));
      std::set<std::int64_t> keys, values, queries;
      for (std::size_t i = 0; i < K; ++i) {
        keys.insert(row.tokens[2 * i]), values.insert(row.tokens[2 * i + 1]);
        EXPECT_TRUE(row.tokens[2 * i] >= 1 && row.tokens[2 * i] < 65);
        EXPECT_TRUE(row.tokens[2 * i + 1] >= 65 && row.tokens[2 * i + 1] < 130);
      }
      std::int64_t fillers = 0;
      for (std::size_t t = 2 * K; t < row.tokens.size(); ++t) {
        fillers += row.tokens[t] == 0;
        if (row.tokens[t] == 0) continue;
        EXPECT_EQ(t % 2, 0u);
        queries.insert(row.tokens[t]);
      }
      EXPECT_EQ(keys.size(), K);
      EXPECT_EQ(values.size(), K);
      EXPECT_EQ(queries, keys);
      EXPECT_EQ(fillers, length - 3 * pairs);
    }
  }
}

TEST(Mqar, PublishedSizes) {
  const TaskExamples examples(config_of(TaskName::mqar, 256, {.test_lengths = "64, 128, 512:64"}), 1);
  EXPECT_EQ(examples.task().vocabulary(), 8192);
  Numbers counts;
  for (const auto& test : examples.tests()) counts.push_back(test.size.count);
  EXPECT_EQ(counts, (Numbers{16, 4, 8, 64}));
}

// The first pair's slot has probability p_i ~ i^(a-1); the second's is the same without the first one's slot.
TEST(Mqar, SlotsFollowThePowerLawWithoutReplacement) {
  constexpr std::size_t slots = 12, pairs = 2;
  constexpr std::int64_t samples = 30000;
  const Data data(config_of(TaskName::mqar, 2 * (slots + pairs), {.vocabulary = 40, .count = pairs}));
  std::vector<double> p, first(slots), second(slots), expected_first, expected_second(slots);
  for (std::size_t i = 1; i <= slots; ++i) p.push_back(std::pow(static_cast<double>(i), 0.01 - 1.0));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& each : p) each /= sum;
  for (std::size_t i = 0; i < slots; ++i) {
    expected_first.push_back(samples * p[i]);
    for (std::size_t j = 0; j < slots; ++j)
      if (j != i) expected_second[j] += samples * p[i] * p[j] / (1.0 - p[i]);
  }
  for (const Row& row : data.train_rows(samples))
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const std::int64_t token = row.tokens[2 * pairs + 2 * slot];
      first[slot] += token == row.tokens[0];
      second[slot] += token == row.tokens[2];
    }
  expect_fits(first, expected_first);
  expect_fits(second, expected_second);
}

TEST(Mqar, RandomFillersAreAnyTokens) {
  constexpr std::size_t pairs = 3;
  const Data data(config_of(TaskName::mqar, 32, {.vocabulary = 20, .count = pairs, .random_filler = true}));
  std::vector<double> fillers(20);
  for (const Row& row : data.train_rows(2000)) {
    std::set<std::int64_t> asked;
    for (std::size_t t = 2 * pairs; t < row.tokens.size(); ++t)
      if (row.targets[t] >= 0) {
        asked.insert(row.tokens[t]);
        EXPECT_EQ(row.targets[t], solve_mqar(row.tokens, pairs)[t]);
      } else {
        ++fillers[static_cast<std::size_t>(row.tokens[t])];
      }
    EXPECT_EQ(asked, (std::set{row.tokens[0], row.tokens[2], row.tokens[4]}));
  }
  expect_uniform(fillers);
}

TEST(Mqar, ShorterTrainingRowsHaveFewerPairsInProportion) {
  const Data data(config_of(TaskName::mqar, 32, {.vocabulary = 64, .count = 8, .shortest = 6}));
  std::map<std::int64_t, std::int64_t> pairs;  // of each length: the tokens up to the last that is not filler
  for (const Row& row : data.train_rows(4000)) {
    const auto asked = std::count_if(row.targets.begin(), row.targets.end(), [](auto t) { return t >= 0; });
    ++pairs[asked];
  }
  // Lengths 6, 8 .. 32, each once in fourteen; length / 4 pairs, rounded down.
  std::vector<double> counts, expected;
  for (std::int64_t count = 1; count <= 8; ++count) {
    counts.push_back(static_cast<double>(pairs[count]));
    expected.push_back(4000.0 * (count == 1 || count == 8 ? 1.0 : 2.0) / 14.0);
  }
  EXPECT_EQ(pairs.size(), 8u);
  expect_fits(counts, expected);
}

// ---- word problems ----

using Image = std::array<std::size_t, 5>;

// The rank-th permutation in lexicographic order, from the digits of rank in the factorial system.
Image permutation(std::size_t rank) {
  std::vector<std::size_t> left{0, 1, 2, 3, 4};
  Image image{};
  std::size_t factorial = 24;
  for (std::size_t i = 0; i < 5; ++i) {
    const std::size_t digit = rank / factorial;
    image[i] = left[digit];
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(digit));
    rank %= factorial;
    if (i < 4) factorial /= 4 - i;
  }
  return image;
}

// Even: five minus the number of cycles is.
bool even(const Image& image) {
  std::set<std::size_t> seen;
  std::size_t cycles = 0;
  for (std::size_t start = 0; start < 5; ++start) {
    cycles += !seen.contains(start);
    for (std::size_t i = start; seen.insert(i).second;) i = image[i];
  }
  return (5 - cycles) % 2 == 0;
}

std::vector<Image> group(TaskName name) {
  std::vector<Image> elements;
  for (std::size_t rank = 0; rank < 120; ++rank)
    if (name == TaskName::s5 || even(permutation(rank))) elements.push_back(permutation(rank));
  return elements;
}

TEST(WordProblem, ProductsAreThoseOfPermutationsActingInTurn) {
  for (const TaskName name : {TaskName::a5, TaskName::s5}) {
    const std::vector<Image> elements = group(name);
    const Data data(config_of(name, 21, {.test_lengths = "41"}));
    ASSERT_EQ(data.examples->task().vocabulary(), std::ssize(elements) + 1);
    for (std::size_t test : {0u, 1u})
      for (const Row& row : data.test_rows(50, test)) {
        EXPECT_EQ(std::ssize(row.tokens), test == 0 ? 21 : 41);
        EXPECT_EQ(row.tokens[0], std::ssize(elements));
        EXPECT_EQ(row.targets[0], -1);
        Image where = {0, 1, 2, 3, 4};  // things 0 .. 4, moved by one element after another
        for (std::size_t t = 1; t < row.tokens.size(); ++t) {
          for (std::size_t& place : where) place = elements[static_cast<std::size_t>(row.tokens[t])][place];
          EXPECT_EQ(elements[static_cast<std::size_t>(row.targets[t])], where);
        }
      }
  }
}

TEST(WordProblem, ElementsAreUniform) {
  const Data data(config_of(TaskName::a5, 21));
  std::vector<double> hits(60), last_products(60);
  for (const Row& row : data.test_rows(1000)) {
    for (std::size_t t = 1; t < row.tokens.size(); ++t) ++hits[static_cast<std::size_t>(row.tokens[t])];
    ++last_products[static_cast<std::size_t>(row.targets.back())];
  }
  expect_uniform(hits);
  expect_uniform(last_products);
}

// A swap leaves four cycles, the identity five.
TEST(WordProblem, CountLimitsWhatAnElementMoves) {
  const std::vector<Image> all = group(TaskName::s5);
  for (const std::int64_t count : {2, 3, 5}) {
    const Data data(config_of(TaskName::s5, 21, {.count = count, .test_lengths = "21:4"}));
    std::map<std::int64_t, double> hits;
    for (const Row& row : data.train_rows(2000))
      for (std::size_t t = 1; t < row.tokens.size() && row.targets[t] >= 0; ++t) ++hits[row.tokens[t]];
    std::vector<double> counts;
    for (const auto& [id, hit] : hits) {
      const Image& image = all[static_cast<std::size_t>(id)];
      std::int64_t moved = 0;
      for (std::size_t i = 0; i < 5; ++i) moved += image[i] != i;
      EXPECT_LE(moved, count);
      counts.push_back(hit);
    }
    EXPECT_EQ(std::ssize(counts), count == 2 ? 1 + 10 : count == 3 ? 1 + 10 + 20 : 120);
    expect_uniform(counts);
    std::set<std::int64_t> tested;
    for (const Row& row : data.test_rows(300, 1)) tested.insert(row.tokens.begin() + 1, row.tokens.end());
    EXPECT_EQ(tested.size(), 1u + 10 + 20 + 45);
  }
}

TEST(WordProblem, PausesComeBeforeTheAnswer) {
  const std::vector<Image> elements = group(TaskName::a5);
  const Data data(config_of(TaskName::a5, 23, {.shortest = 7, .pause_tokens = 2}));  // one token is left over
  for (const Row& row : data.test_rows(50)) {
    ASSERT_EQ(row.tokens.size(), 23u);
    Image where = {0, 1, 2, 3, 4};
    for (std::size_t t = 1; t < 22; ++t) {
      if (t % 3 == 1)
        for (std::size_t& place : where) place = elements[static_cast<std::size_t>(row.tokens[t])][place];
      else
        EXPECT_EQ(row.tokens[t], 60) << "BOS waits";
      if (t % 3 == 0)
        EXPECT_EQ(elements[static_cast<std::size_t>(row.targets[t])], where);
      else
        EXPECT_EQ(row.targets[t], -1);
    }
    EXPECT_EQ(row.targets[22], -1);
  }
  std::set<std::int64_t> answers;
  for (const Row& row : data.train_rows(500))
    answers.insert(std::count_if(row.targets.begin(), row.targets.end(), [](auto t) { return t >= 0; }));
  EXPECT_EQ(answers, (std::set<std::int64_t>{2, 3, 4, 5, 6, 7}));
}

TEST(WordProblem, TrainingAddsStringsOfTwoOrAllLengths) {
  const auto published = lengths_of(Data(config_of(TaskName::a5, 11)).train_rows(20000));
  ASSERT_EQ(published.size(), 2u);
  expect_fits({published.at(3), published.at(11)}, {20000.0 / 32, 20000.0 * 31 / 32});
  const auto uniform = lengths_of(Data(config_of(TaskName::a5, 11, {.shortest = 2})).train_rows(20000));
  std::vector<double> counts;
  for (std::size_t length = 2; length <= 11; ++length) counts.push_back(uniform.at(length));
  EXPECT_EQ(uniform.size(), counts.size());
  expect_uniform(counts);
}

// ---- parity ----

TEST(Parity, TheAnswerIsTheParityOfAllBits) {
  const Data data(config_of(TaskName::parity, 40, {.test_lengths = "64, 256"}));
  std::vector<double> answers(2), bits(2);
  const auto expect_solved = [&](const Row& row) {
    const auto asked = std::ranges::find_if(row.targets, [](auto target) { return target >= 0; });
    ASSERT_NE(asked, row.targets.end());
    EXPECT_EQ(std::count_if(row.targets.begin(), row.targets.end(), [](auto t) { return t >= 0; }), 1);
    const auto length = asked - row.targets.begin() + 1;
    bool odd = false;
    for (auto bit = row.tokens.begin(); bit != row.tokens.begin() + length; ++bit) {
      ASSERT_TRUE(*bit == 0 || *bit == 1);
      ++bits[static_cast<std::size_t>(*bit)];
      odd ^= *bit == 1;
    }
    EXPECT_EQ(*asked, odd);
    ++answers[odd];
    for (auto padding = row.tokens.begin() + length; padding != row.tokens.end(); ++padding)
      EXPECT_EQ(*padding, 0);
  };
  for (const Row& row : data.train_rows(2000)) expect_solved(row);
  for (const std::size_t test : {0u, 1u, 2u})
    for (const Row& row : data.test_rows(300, test)) {
      expect_solved(row);
      EXPECT_GE(row.targets.back(), 0) << "tests are of the full length";
    }
  expect_uniform(answers);
  expect_uniform(bits);
}

TEST(Parity, TrainingLengthsAreUniformFromThree) {
  const auto lengths = lengths_of(Data(config_of(TaskName::parity, 40)).train_rows(20000));
  EXPECT_EQ(lengths.begin()->first, 3u);
  EXPECT_EQ(lengths.rbegin()->first, 40u);
  std::vector<double> counts;
  for (std::size_t length = 3; length <= 40; ++length) counts.push_back(lengths.at(length));
  expect_uniform(counts);
}

// ---- selective copying ----

TEST(SelectiveCopy, ThePayloadComesAgainInItsOrder) {
  for (const auto& [vocabulary, K] : {std::pair{16, 16}, {32, 5}, {4, 1}}) {
    const Data data(config_of(TaskName::selective_copy, 64, {.vocabulary = vocabulary, .count = K}));
    const std::int64_t blank = vocabulary - 2, marker = vocabulary - 1;
    for (const Row& row : data.test_rows(100)) {
      Numbers payload, asked;
      std::size_t t = 0;
      for (; row.tokens[t] != marker; ++t)
        if (row.tokens[t] != blank) payload.push_back(row.tokens[t]);
      EXPECT_EQ(t, row.tokens.size() - static_cast<std::size_t>(K) - 1);
      EXPECT_NE(row.tokens[t - 1], blank) << "no blank follows the last token";
      EXPECT_EQ(row.targets[t], -1);
      for (++t; t < row.tokens.size(); ++t) {
        EXPECT_EQ(row.tokens[t], blank);
        asked.push_back(row.targets[t]);
      }
      EXPECT_EQ(std::ssize(payload), K);
      EXPECT_EQ(asked, payload);
      EXPECT_EQ(std::ranges::count(row.targets, -1), 64 - K);
    }
  }
}

TEST(SelectiveCopy, BlanksGoBeforeAnyTokenAndPayloadIsUniform) {
  constexpr std::size_t K = 4;
  const Data data(config_of(TaskName::selective_copy, 30, {.vocabulary = 8, .count = K}));
  std::vector<double> blanks(K), payload(6);
  for (const Row& row : data.test_rows(1000)) {
    std::size_t gap = 0;
    for (std::size_t t = 0; gap < K; ++t)
      if (row.tokens[t] == 6)
        ++blanks[gap];
      else
        ++gap, ++payload[static_cast<std::size_t>(row.tokens[t])];
  }
  expect_uniform(blanks);
  expect_uniform(payload);
}

TEST(SelectiveCopy, PublishedSizes) {
  const TaskExamples examples(config_of(TaskName::selective_copy, 256), 1);
  EXPECT_EQ(examples.task().vocabulary(), 16);
  EXPECT_EQ(examples.tests()[0].size.count, 16);
}

// ---- state-based recall ----

struct Replayed {
  Numbers targets;
  bool moved = false;
  std::int64_t swaps = 0;
};

// Reads a program from its tokens, as text would be read, and runs it.
Replayed replay(const Numbers& tokens, std::int64_t bits) {
  const std::int64_t BITS = 7 + bits, POINTERS = 8 + bits, SWAP = 9 + bits, QUERY = 10 + bits;
  Replayed result;
  result.targets.resize(tokens.size(), -1);
  std::map<std::int64_t, std::int64_t> memory, pointer;
  auto next = tokens.begin();
  EXPECT_EQ(*next++, BITS);
  for (std::int64_t address = 7; *next == 0 || *next == 1; ++address) memory[address] = *next++;
  EXPECT_EQ(*next++, POINTERS);
  std::set<std::int64_t> addresses;
  for (; *next >= 2 && *next < 7; next += 2) {
    EXPECT_TRUE(memory.contains(next[1])) << "an address outside the memory";
    EXPECT_TRUE(addresses.insert(next[1]).second) << "two pointers to one bit";
    pointer[next[0]] = next[1];
  }
  EXPECT_EQ(pointer.size(), 5u);
  const std::int64_t start = pointer[2];
  for (; *next == SWAP; next += 3, ++result.swaps) {
    EXPECT_TRUE(next[1] != next[2] && pointer.contains(next[1]) && pointer.contains(next[2]));
    std::swap(pointer[next[1]], pointer[next[2]]);
  }
  EXPECT_EQ(*next++, QUERY);
  EXPECT_EQ(*next, 2);
  result.targets[static_cast<std::size_t>(next - tokens.begin())] = memory[pointer[2]];
  result.moved = pointer[2] != start;
  return result;
}

TEST(StateRecall, AnswersAreThoseOfTheProgramThatTheTokensWrite) {
  struct Case {
    std::int64_t length, count, bits, swaps;
  };
  for (const Case& each :
       {Case{78, 0, 16, 16}, {142, 0, 32, 32}, {42, 16, 16, 4}, {44, 16, 16, 4}, {45, 16, 16, 5}}) {
    const Data data(config_of(TaskName::state_recall, each.length, {.count = each.count}));
    EXPECT_EQ(data.examples->task().vocabulary(), 11 + each.bits);
    for (const Row& row : data.test_rows(100)) {
      const Replayed solved = replay(row.tokens, each.bits);
      EXPECT_EQ(row.targets, solved.targets);
      EXPECT_EQ(row.special, solved.moved);
      EXPECT_EQ(solved.swaps, each.swaps);
    }
  }
}

TEST(StateRecall, LongerTestsSwapMoreAndFewerBitsKeepTheirIds) {
  const Data data(config_of(TaskName::state_recall, 78, {.test_lengths = "126, 78:8"}));
  for (const Row& row : data.test_rows(20, 1)) {
    const Replayed solved = replay(row.tokens, 16);
    EXPECT_EQ(row.targets, solved.targets);
    EXPECT_EQ(solved.swaps, 32);
  }
  for (const Row& row : data.test_rows(20, 2)) EXPECT_EQ(row.targets, replay(row.tokens, 16).targets);
}

TEST(StateRecall, ShorterTrainingRowsHaveFewerSwaps) {
  const Data data(config_of(TaskName::state_recall, 34, {.count = 8, .shortest = 22}));
  std::vector<double> rows(5);
  for (const Row& row : data.train_rows(5000)) {
    const Replayed solved = replay(row.tokens, 8);
    EXPECT_EQ(row.targets, solved.targets);
    ++rows.at(static_cast<std::size_t>(solved.swaps));
  }
  expect_uniform(rows);  // 0 .. 4 swaps
}

// The first pointer is in a swap with probability 2/5, so it is back home after m of them with probability
// 1/5 + 4/5 * 2^-m.
TEST(StateRecall, MovesAsOftenAsRandomSwapsDo) {
  for (const std::int64_t swaps : {1, 3, 8}) {
    const Data data(config_of(TaskName::state_recall, 16 + 14 + 3 * swaps, {.count = 16}));
    double moved = 0.0, ones = 0.0;
    const std::vector<Row> rows = data.train_rows(10000);
    for (const Row& row : rows) {
      moved += row.special;
      ones += row.targets.back() == 1;
    }
    const double home = 0.2 + 0.8 * std::pow(0.5, static_cast<double>(swaps));
    EXPECT_NEAR(moved / 10000, 1.0 - home, 6 * std::sqrt(home * (1 - home) / 10000)) << swaps;
    EXPECT_NEAR(ones / 10000, 0.5, 0.03);
  }
}

// ---- needle ----

TEST(Needle, TheValueBehindTheKeyIsAsked) {
  const Data data(config_of(TaskName::needle, 48, {.test_lengths = "72, 96"}));
  for (const std::size_t test : {0u, 1u, 2u})
    for (const Row& row : data.test_rows(100, test)) {
      EXPECT_EQ(std::ranges::count(row.tokens, 63), 2);
      const auto needle = std::ranges::find(row.tokens, 63);
      const auto query = std::find(needle + 1, row.tokens.end(), 63);
      EXPECT_EQ(row.tokens.end() - query, 4);
      const Numbers value(needle + 1, needle + 5);
      EXPECT_EQ(Numbers(row.targets.end() - 4, row.targets.end()), value);
      EXPECT_EQ(Numbers(query + 1, row.tokens.end()), Numbers(value.begin(), value.end() - 1));
      EXPECT_EQ(std::ranges::count(row.targets, -1), std::ssize(row.targets) - 4);
      EXPECT_LE(needle + 5, query);
    }
}

TEST(Needle, DepthsAndFillersAreUniform) {
  const Data data(config_of(TaskName::needle, 20, {.vocabulary = 8, .count = 3}));
  std::vector<double> depths(20 - 6), fillers(7);
  for (const Row& row : data.train_rows(5000)) {
    const auto needle = std::ranges::find(row.tokens, 7) - row.tokens.begin();
    ++depths.at(static_cast<std::size_t>(needle));
    for (std::size_t t = 0; t < 17; ++t)
      if (row.tokens[t] != 7) ++fillers[static_cast<std::size_t>(row.tokens[t])];
  }
  expect_uniform(depths);
  expect_uniform(fillers);
}

}  // namespace
}  // namespace wuneng::data
