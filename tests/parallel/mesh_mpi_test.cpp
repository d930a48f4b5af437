#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include "common/check.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

TEST(Mesh, TensorNeighboursAreAdjacentRanks) {
  const int ranks = world().size(), tensor = ranks > 1 ? 2 : 1;
  const Mesh mesh({.data = 0, .tensor = tensor}, world().communicator());
  EXPECT_EQ(mesh.tensor().size(), tensor);
  EXPECT_EQ(mesh.tensor().rank(), world().rank() % tensor);
  EXPECT_EQ(mesh.data().size(), ranks / tensor);
  EXPECT_EQ(mesh.data().rank(), world().rank() / tensor);
}

TEST(Mesh, SizesThatDoNotMultiplyToTheWorldAreRefusedWithTheNumbers) {
  EXPECT_NO_THROW(check_mesh({.data = 2, .tensor = 2}, 4));
  EXPECT_THROW(check_mesh({.data = 0, .tensor = 3}, 4), UsageError);
  try {
    check_mesh({.data = 8, .tensor = 1}, 4);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("mpirun -n 8"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace wuneng::parallel
