#include "kernels/op.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/norm.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/refusals.h"

namespace wuneng::kernels::tests {
namespace {

using testing::HasSubstr;

std::string check(const at::Tensor& x, const at::Tensor& like) {
  return refusal([&] { check_input("op", "x", x, {2, 8}, like); });
}

TEST(Op, InputsOnTheCpuAreFloat32OrFloat64) {
  const at::Tensor x = normal({2, 8}, 1, at::kFloat), wide = normal({2, 8}, 1, at::kDouble);
  EXPECT_EQ(check(x, x), "");
  EXPECT_EQ(check(wide, wide), "");
  EXPECT_THAT(check(x, wide), HasSubstr("x has dtype Float, expected Double as the first input"));
  EXPECT_THAT(check(x.to(at::kBFloat16), x), HasSubstr("dtype BFloat16, expected Float or Double on cpu"));
  EXPECT_THAT(check(normal({2, 7}, 1), wide), HasSubstr("x has shape [2, 7], expected [2, 8]"));
  EXPECT_THAT(check(normal({8, 2}, 1).t(), wide),
              HasSubstr("x is not contiguous (shape [2, 8], strides [1, 2])"));
  EXPECT_THAT(check({}, wide), HasSubstr("x has shape undefined"));
}

TEST(Op, InputsOnCudaAreFloat32OrBfloat16AndAligned) {
  const at::Tensor x = pretended_cuda({2, 8}, at::kBFloat16), narrow = pretended_cuda({2, 8}, at::kFloat),
                   wide = pretended_cuda({2, 8}, at::kDouble),
                   late = pretended_cuda({2, 8}, at::kBFloat16, 2);
  EXPECT_EQ(check(x, x),
            with_cuda ? "" : "op: x is on cuda:0, but this build has no CUDA: build with -DWUNENG_CUDA=ON");
  if (with_cuda) {
    EXPECT_EQ(check(narrow, narrow), "");
    EXPECT_THAT(check(wide, wide), HasSubstr("dtype Double, expected Float or BFloat16 on cuda:0"));
    EXPECT_THAT(check(late, x), HasSubstr("x begins 2 bytes past a multiple of 16"));
  }
}

TEST(Op, InputsLieOnOneDevice) {
  const at::Tensor cpu = normal({2, 8}, 1, at::kFloat), cuda = pretended_cuda({2, 8}, at::kFloat),
                   other = pretended_cuda({2, 8}, at::kFloat, 0, 1);
  EXPECT_THAT(check(cuda, cpu), HasSubstr("x is on cuda:0, but the first input is on cpu"));
  EXPECT_THAT(check(cpu, cuda), HasSubstr("x is on cpu, but the first input is on cuda:0"));
  EXPECT_THAT(check(other, cuda), HasSubstr("x is on cuda:1, but the first input is on cuda:0"));
  const at::Tensor nowhere = at::empty({2, 8}, at::TensorOptions().device(at::kMeta));
  EXPECT_THAT(check(nowhere, nowhere), HasSubstr("x is on meta, expected the CPU or CUDA"));
}

TEST(Op, GradientsBecomeDense) {
  const at::Tensor x = normal({4, 6}, 1);
  EXPECT_EQ(dense(x).const_data_ptr(), x.const_data_ptr());
  EXPECT_TRUE(dense(x.t()).is_contiguous());
  EXPECT_TRUE(dense(x.t()).equal(x.t()));
}

}  // namespace
}  // namespace wuneng::kernels::tests
