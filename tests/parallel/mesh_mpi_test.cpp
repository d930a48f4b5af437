#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include "common/check.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

TEST(Mesh, TensorNeighboursAreAdjacentRanks) {
  const int ranks = world().size(), tensor = ranks > 1 ? 2 : 1;
  const Mesh mesh(resolved({.data = 0, .tensor = tensor}, ranks), world().communicator());
  EXPECT_EQ(mesh.tensor().size(), tensor);
  EXPECT_EQ(mesh.tensor().rank(), world().rank() % tensor);
  EXPECT_EQ(mesh.data().size(), ranks / tensor);
  EXPECT_EQ(mesh.data().rank(), world().rank() / tensor);
}

TEST(Mesh, SizesThatDoNotMultiplyToTheWorldAreRefusedWithTheNumbers) {
  EXPECT_NO_THROW(resolved({.data = 2, .tensor = 2}, 4));
  EXPECT_EQ(resolved({.data = 0, .tensor = 2}, 8).data, 4);
  EXPECT_EQ(resolved({.data = 2, .tensor = 0}, 8).tensor, 4);
  EXPECT_THROW(resolved({.data = 0, .tensor = 3}, 4), UsageError);
  EXPECT_THROW(resolved({.data = 3, .tensor = 0}, 4), UsageError);
  EXPECT_THROW(resolved({.data = 0, .tensor = 0}, 4), UsageError);
  try {
    resolved({.data = 8, .tensor = 1}, 4);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("mpirun -n 8"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace wuneng::parallel
