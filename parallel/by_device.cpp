#include "parallel/by_device.h"

#include <utility>

namespace wuneng::parallel {
namespace {

class ByDevice final : public Communicator {
 public:
  ByDevice(std::unique_ptr<Communicator> host, std::unique_ptr<Communicator> device)
      : host_(std::move(host)), device_(std::move(device)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void broadcast(const at::Tensor& tensor, int root) override { group_of(tensor).broadcast(tensor, root); }
  void all_reduce_sum(const at::Tensor& tensor) override { group_of(tensor).all_reduce_sum(tensor); }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    group_of(mine).reduce_scatter_sum(all, mine);
  }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    group_of(mine).all_gather(mine, all);
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    group_of(send).all_to_all(send, receive);
  }
  void send(const at::Tensor& tensor, int to) override { group_of(tensor).send(tensor, to); }
  void receive(const at::Tensor& tensor, int from) override { group_of(tensor).receive(tensor, from); }
  void barrier() override { host_->barrier(); }
  std::vector<std::string> all_gather_text(const std::string& mine) override {
    return host_->all_gather_text(mine);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    return make_by_device(host_->split(colour), device_->split(colour));
  }
  std::unique_ptr<Communicator> background() override {
    return make_by_device(host_->background(), device_->background());
  }
  void cancel() override {
    host_->cancel();
    device_->cancel();
  }

 private:
  Communicator& group_of(const at::Tensor& tensor) const { return tensor.is_cpu() ? *host_ : *device_; }

  std::unique_ptr<Communicator> host_, device_;
};

}  // namespace

std::unique_ptr<Communicator> make_by_device(std::unique_ptr<Communicator> host,
                                             std::unique_ptr<Communicator> device) {
  return std::make_unique<ByDevice>(std::move(host), std::move(device));
}

}  // namespace wuneng::parallel
