#include "parallel/host_staged.h"

#include <ATen/ops/empty.h>

#include <utility>

namespace wuneng::parallel {
namespace {

at::Tensor host_copy(const at::Tensor& tensor) {
  return tensor.to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true).contiguous();
}

at::Tensor host_room(const at::Tensor& tensor) {
  return at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
}

class HostStaged final : public Communicator {
 public:
  explicit HostStaged(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void broadcast(const at::Tensor& tensor, int root) override {
    in_place(tensor, [&](const at::Tensor& staged) { inner_->broadcast(staged, root); });
  }
  void all_reduce_sum(const at::Tensor& tensor) override {
    in_place(tensor, [&](const at::Tensor& staged) { inner_->all_reduce_sum(staged); });
  }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    into(mine, [&](const at::Tensor& staged) { inner_->reduce_scatter_sum(host_copy(all), staged); });
  }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    into(all, [&](const at::Tensor& staged) { inner_->all_gather(host_copy(mine), staged); });
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    into(receive, [&](const at::Tensor& staged) { inner_->all_to_all(host_copy(send), staged); });
  }
  void send(const at::Tensor& tensor, int to) override { inner_->send(host_copy(tensor), to); }
  void receive(const at::Tensor& tensor, int from) override {
    into(tensor, [&](const at::Tensor& staged) { inner_->receive(staged, from); });
  }
  void barrier() override { inner_->barrier(); }
  std::vector<std::string> all_gather_text(const std::string& mine) override {
    return inner_->all_gather_text(mine);
  }
  std::unique_ptr<Communicator> split(int colour) override { return make_host_staged(inner_->split(colour)); }
  std::unique_ptr<Communicator> background() override { return make_host_staged(inner_->background()); }
  void cancel() override { inner_->cancel(); }

 private:
  template <class Call>
  static void in_place(const at::Tensor& tensor, Call call) {
    const at::Tensor staged = host_copy(tensor);
    call(staged);
    tensor.copy_(staged);
  }
  template <class Call>
  static void into(const at::Tensor& tensor, Call call) {
    const at::Tensor staged = host_room(tensor);
    call(staged);
    tensor.copy_(staged);
  }

  std::unique_ptr<Communicator> inner_;
};

}  // namespace

std::unique_ptr<Communicator> make_host_staged(std::unique_ptr<Communicator> inner) {
  return std::make_unique<HostStaged>(std::move(inner));
}

}  // namespace wuneng::parallel
