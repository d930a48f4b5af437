#include "parallel/checked.h"

#include <ATen/ops/full.h>

#include <fmt/ranges.h>

#include <bit>
#include <map>
#include <utility>

#include "common/check.h"
#include "common/hash.h"

namespace wuneng::parallel {
namespace {

class Checked final : public Communicator {
 public:
  Checked(std::unique_ptr<Communicator> inner, std::string who)
      : inner_(std::move(inner)), who_(std::move(who)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void broadcast(const at::Tensor& tensor, int root) override {
    compare(fmt::format("broadcast from rank {} of the group", root), tensor);
    inner_->broadcast(tensor, root);
  }
  void all_reduce_sum(const at::Tensor& tensor) override {
    compare("all_reduce_sum", tensor);
    inner_->all_reduce_sum(tensor);
  }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    compare("reduce_scatter_sum", mine);
    inner_->reduce_scatter_sum(all, mine);
  }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    compare("all_gather", mine);
    inner_->all_gather(mine, all);
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    compare("all_to_all", send);
    inner_->all_to_all(send, receive);
  }
  void send(const at::Tensor& tensor, int to) override { inner_->send(tensor, to); }
  void receive(const at::Tensor& tensor, int from) override { inner_->receive(tensor, from); }
  void barrier() override {
    compare("barrier");
    inner_->barrier();
  }
  std::vector<std::string> all_gather_text(const std::string& mine) override {
    compare("all_gather_text");
    return inner_->all_gather_text(mine);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    compare("split");
    return make_checked(inner_->split(colour), who_);
  }
  std::unique_ptr<Communicator> background() override {
    compare("background");
    return make_checked(inner_->background(), who_);
  }
  void cancel() override { inner_->cancel(); }

 private:
  void compare(const std::string& name, const at::Tensor& tensor) const {
    compare(tensor.defined() ? fmt::format("{} of {} [{}]", name, c10::toString(tensor.scalar_type()),
                                           fmt::join(tensor.sizes(), ", "))
                             : name + " of no tensor");
  }

  // Every rank comes to the same conclusion: all calls are equal, or not all are.
  void compare(const std::string& call) const {
    const auto mine = std::bit_cast<std::int64_t>(hash_text(call));
    if (gathered(at::full({}, mine, at::kLong), *inner_).eq(mine).all().item<bool>()) return;
    const std::vector<std::string> who = inner_->all_gather_text(who_), calls = inner_->all_gather_text(call);
    std::map<std::string, std::vector<std::string>> callers;
    for (std::size_t r = 0; r < calls.size(); ++r) callers[calls[r]].push_back(who[r]);
    std::string differing;
    for (const auto& [name, ranks] : callers)
      differing += fmt::format("{}{}: {}", differing.empty() ? "" : "; ", fmt::join(ranks, ", "), name);
    throw Error("ranks of one group make different calls: " + differing);
  }

  std::unique_ptr<Communicator> inner_;
  std::string who_;
};

}  // namespace

std::unique_ptr<Communicator> make_checked(std::unique_ptr<Communicator> inner, const std::string& who) {
  return std::make_unique<Checked>(std::move(inner), who);
}

}  // namespace wuneng::parallel
