#include "common/stack.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "common/symbols.h"

namespace wuneng {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

// Local to this file: no dynamic symbol names it.
[[gnu::noinline]] Stack stack_from_here() {
  Stack stack = StackTaker::here();
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the call above is no jump
  return stack;
}

[[gnu::noinline]] void spin_until(const std::atomic<bool>& done, std::atomic<bool>& spinning) {
  spinning = true;
  while (!done) {
  }
}

TEST(Stack, NamesFunctionsThatAreLocalToTheirFile) {
  const std::string text = to_text(stack_from_here());
  EXPECT_THAT(text,
              ContainsRegex("#[01] wuneng::\\(anonymous namespace\\)::stack_from_here.* \\+ 0x[0-9a-f]+ "
                            "\\(common_tests 0x[0-9a-f]+\\)"));
  EXPECT_THAT(text, HasSubstr("main"));
}

TEST(Stack, NamesFunctionsOfLibraries) {
  EXPECT_THAT(symbol_at(reinterpret_cast<const void*>(&::fopen)), ContainsRegex("fopen.*\\(libc"));
}

TEST(Stack, AnAddressThatNobodyKnowsIsShownAsItIs) {
  EXPECT_EQ(symbol_at(reinterpret_cast<const void*>(0x10)), "0x10");
}

TEST(Stack, OfAnotherThread) {
  const StackTaker stacks;
  std::atomic<bool> done = false, spinning = false;
  std::thread other([&] { spin_until(done, spinning); });
  while (!spinning) {
  }
  const Stack stack = stacks.of(other.native_handle());
  done = true;
  other.join();
  EXPECT_THAT(to_text(stack), HasSubstr("spin_until"));
}

}  // namespace
}  // namespace wuneng
