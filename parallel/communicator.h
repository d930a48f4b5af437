// How the ranks of a group talk. Tensors are contiguous and on a device that the group was made for; every
// rank makes the same calls in the same order, from one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

namespace wuneng::parallel {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Data. Element counts and dtypes must agree between ranks; float32, float64 and int64.
  virtual void broadcast(const at::Tensor& tensor, int root) = 0;
  // Sums in an order that the library chooses; the same bits on every rank.
  virtual void all_reduce_sum(const at::Tensor& tensor) = 0;
  // mine = the sum over ranks of their piece all[rank()]: all has size() times the elements of mine. The
  // library chooses the order.
  virtual void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) = 0;
  // all[r] = mine of rank r: all has size() times the elements of mine, which may be its piece all[rank()].
  virtual void all_gather(const at::Tensor& mine, const at::Tensor& all) = 0;
  // receive[r] = send[rank()] of rank r: both are size() equal pieces.
  virtual void all_to_all(const at::Tensor& send, const at::Tensor& receive) = 0;
  // From one rank to another; each waits for its partner.
  virtual void send(const at::Tensor& tensor, int to) = 0;
  virtual void receive(const at::Tensor& tensor, int from) = 0;

  // Control.
  virtual void barrier() = 0;
  virtual std::vector<std::string> all_gather_text(const std::string& mine) = 0;  // one entry per rank
  // The ranks that pass the same colour, in their present order.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;
  // The same ranks once more, for a thread of its own: its waits leave the core to others.
  virtual std::unique_ptr<Communicator> background() = 0;
  // From another thread: calls of a background group that wait, now or later, throw Error.
  virtual void cancel() {}
};

// The tensor of every rank, [ranks, ...].
at::Tensor gathered(const at::Tensor& mine, Communicator& group);

// A group of one process: data stays where it is.
std::unique_ptr<Communicator> make_single();

}  // namespace wuneng::parallel
