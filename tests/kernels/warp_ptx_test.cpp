// What the emulator cannot see of kernels/device/warp.cuh: how the inline PTX is tied to the code around it.
// Without `volatile` the compiler may move or drop a primitive, and without "memory" move loads and stores
// across it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

struct Statement {
  std::string mnemonic;  // "bar.warp.sync"
  bool is_volatile, clobbers_memory;
};

// Every asm statement of the text, to its closing parenthesis.
std::vector<Statement> statements(const std::string& text) {
  std::vector<Statement> found;
  const std::regex start(R"re(\basm\b\s*(volatile)?\s*\(\s*"\s*([a-z0-9_.]+))re");
  for (std::sregex_iterator i(text.begin(), text.end(), start), end; i != end; ++i) {
    std::size_t close = static_cast<std::size_t>(i->position()) + i->str().find('(') + 1;
    bool quoted = false;
    for (int depth = 1; depth > 0 && close < text.size(); ++close) {
      quoted ^= text[close] == '"';
      if (!quoted) depth += (text[close] == '(') - (text[close] == ')');
    }
    const std::string body = text.substr(static_cast<std::size_t>(i->position()), close - i->position());
    found.push_back(
        {(*i)[2], (*i)[1].matched, std::regex_search(body, std::regex(R"re(:\s*"memory"\s*\)$)re"))});
  }
  return found;
}

bool starts_with_any(const std::string& text, const std::vector<std::string>& starts) {
  for (const std::string& s : starts)
    if (text.starts_with(s)) return true;
  return false;
}

// Empty when the statement is tied as it must be.
std::string problem(const Statement& s) {
  if (starts_with_any(s.mnemonic, {"ex2.", "cvt."})) return "";  // functions of their operands
  const bool between_lanes = starts_with_any(s.mnemonic, {"shfl.sync.", "mma.sync."});
  const bool memory = starts_with_any(s.mnemonic, {"bar.", "ldmatrix.", "cp.async."});
  if (!between_lanes && !memory) return s.mnemonic + ": unknown to this test, say of what kind it is";
  if (!s.is_volatile) return s.mnemonic + ": must be volatile";
  return memory && !s.clobbers_memory ? s.mnemonic + ": must clobber \"memory\"" : "";
}

TEST(WarpPtx, EveryPrimitiveIsTiedToTheCodeAroundIt) {
  const char* root = std::getenv("WUNENG_SOURCE");
  ASSERT_NE(root, nullptr) << "ctest sets it";
  std::ifstream file(std::string(root) + "/kernels/device/warp.cuh");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::set<std::string> seen;
  for (const Statement& s : statements(text)) {
    EXPECT_EQ(problem(s), "");
    seen.insert(s.mnemonic.substr(0, s.mnemonic.find('.')));
  }
  EXPECT_EQ(seen, (std::set<std::string>{"bar", "shfl", "ldmatrix", "mma", "cp", "ex2", "cvt"}));
}

TEST(WarpPtx, ThisTestSeesWhatIsMissing) {
  const auto first = [](const std::string& text) { return problem(statements(text).at(0)); };
  EXPECT_EQ(first(R"(asm volatile("bar.sync 0;" ::: "memory"))"), "");
  EXPECT_NE(first(R"(asm("bar.sync 0;" ::: "memory"))"), "");
  EXPECT_NE(first(R"(asm volatile("bar.sync 0;"))"), "");
  EXPECT_NE(first(R"(asm volatile("cp.async.wait_group %0;" ::"n"(pending)); f(":" "memory"))"), "");
  EXPECT_NE(first(R"(asm("mma.sync.aligned %0;" : "+f"(c[0])))"), "");
  EXPECT_NE(first(R"(asm volatile("red.global.add %0;" ::"r"(x) : "memory"))"), "");
}

}  // namespace
