#include "parallel/self_test.h"

#include <gmock/gmock.h>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng::parallel {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using tests::message_of;

// One process, whose collectives go wrong as asked.
class Faulty final : public Communicator {
 public:
  explicit Faulty(std::string bad) : bad_(std::move(bad)) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void broadcast(const at::Tensor& tensor, int) override { spoil("broadcast", tensor); }
  void all_reduce_sum(const at::Tensor& tensor) override { spoil("all_reduce_sum", tensor); }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    inner_->all_gather(mine, all);
    spoil("all_gather", all);
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    inner_->all_to_all(send, receive);
    spoil("all_to_all", receive);
  }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    inner_->reduce_scatter_sum(all, mine);
  }
  void send(const at::Tensor&, int) override {}
  void receive(const at::Tensor&, int) override {}
  void barrier() override {}
  std::vector<std::string> all_gather_text(const std::string& mine) override { return {mine}; }
  std::unique_ptr<Communicator> split(int) override { return make_single(); }
  std::unique_ptr<Communicator> background() override { return make_single(); }

 private:
  void spoil(const std::string& call, const at::Tensor& tensor) const {
    if (call == bad_) tensor.mutable_data_ptr<double>()[tensor.numel() - 1] += 0.5;
  }

  std::unique_ptr<Communicator> inner_ = make_single();
  std::string bad_;
};

TEST(SelfTest, PassesWhereAnswersAreRight) {
  Faulty none("");
  EXPECT_NO_THROW(self_test(none, "host"));
}

TEST(SelfTest, NamesRankHostCollectiveAndBothValuesOfAWrongAnswer) {
  for (const char* call : {"all_reduce_sum", "all_gather", "all_to_all", "broadcast"}) {
    Faulty faulty(call);
    EXPECT_THAT(message_of<Error>([&] { self_test(faulty, "node7"); }),
                AllOf(HasSubstr("rank 0 of 1 on node7"), HasSubstr(std::string(call) + ": element "),
                      HasSubstr(".5 instead of ")));
  }
}

}  // namespace
}  // namespace wuneng::parallel
