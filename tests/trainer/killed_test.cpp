// The short form of train_soak.cpp.
#include "tests/trainer/killed_run.h"

namespace wuneng::tests {
namespace {

TEST_F(KilledRun, EndsWithTheBitsOfOneThatNobodyTouched) { expect_same_after(3, 24, 6, {1, 2}); }

}  // namespace
}  // namespace wuneng::tests
