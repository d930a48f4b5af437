// One rank of a group whose other ranks do not exist: for dry runs, and to count what a model communicates.
// Sums are what this rank gave; what comes from others is what this rank would have sent.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "parallel/communicator.h"

namespace wuneng::parallel {

class Fake final : public Communicator {
 public:
  struct Traffic {
    std::int64_t calls = 0, bytes = 0;  // bytes that this rank hands in
  };

  Fake(int rank, int size);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void broadcast(const at::Tensor& tensor, int root) override;
  void all_reduce_sum(const at::Tensor& tensor) override;
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override;
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override;
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override;
  void send(const at::Tensor& tensor, int to) override;
  void receive(const at::Tensor& tensor, int from) override;
  void barrier() override;
  std::vector<std::string> all_gather_text(const std::string& mine) override;
  // Colours do not say how many ranks share them: throws Error. Make one group per axis instead.
  std::unique_ptr<Communicator> split(int colour) override;
  std::unique_ptr<Communicator> background() override;

  // Of each call by its name, since the last reset().
  std::map<std::string, Traffic> traffic() const { return traffic_; }
  void reset() { traffic_.clear(); }

 private:
  void count(const char* call, const at::Tensor& tensor);

  int rank_, size_;
  std::map<std::string, Traffic> traffic_;
};

}  // namespace wuneng::parallel
