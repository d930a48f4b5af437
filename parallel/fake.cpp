#include "parallel/fake.h"

#include "common/check.h"

namespace wuneng::parallel {

Fake::Fake(int rank, int size) : rank_(rank), size_(size) {
  WN_CHECK(size >= 1 && rank >= 0 && rank < size, "Fake: there is no rank {} of {}", rank, size);
}

void Fake::count(const char* call, const at::Tensor& tensor) {
  Traffic& traffic = traffic_[call];
  traffic.calls += 1;
  traffic.bytes += static_cast<std::int64_t>(tensor.nbytes());
}

void Fake::broadcast(const at::Tensor& tensor, int) { count("broadcast", tensor); }

void Fake::all_reduce_sum(const at::Tensor& tensor) { count("all_reduce_sum", tensor); }

void Fake::reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) {
  count("reduce_scatter_sum", all);
  mine.view(-1).copy_(all.view({size_, -1})[rank_]);
}

void Fake::all_gather(const at::Tensor& mine, const at::Tensor& all) {
  count("all_gather", mine);
  all.view({size_, -1}).copy_(mine.view({1, -1}).expand({size_, -1}));
}

void Fake::all_to_all(const at::Tensor& send, const at::Tensor& receive) {
  count("all_to_all", send);
  receive.view({size_, -1}).copy_(send.view({size_, -1})[rank_].unsqueeze(0).expand({size_, -1}));
}

void Fake::send(const at::Tensor& tensor, int) { count("send", tensor); }

void Fake::receive(const at::Tensor& tensor, int) {
  count("receive", tensor);
  tensor.zero_();
}

void Fake::barrier() { traffic_["barrier"].calls += 1; }

std::vector<std::string> Fake::all_gather_text(const std::string& mine) {
  traffic_["all_gather_text"].calls += 1;
  return std::vector<std::string>(static_cast<std::size_t>(size_), mine);
}

std::unique_ptr<Communicator> Fake::split(int) {
  WN_CHECK(false, "Fake: a group of one real rank cannot be split; make one for each axis of the mesh");
}

std::unique_ptr<Communicator> Fake::background() { return std::make_unique<Fake>(rank_, size_); }

}  // namespace wuneng::parallel
