// A group's calls on a thread of their own, in the order in which they are handed over, while the caller goes
// on computing.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "parallel/communicator.h"

namespace wuneng::parallel {

class Background {
 public:
  using Call = std::function<void(Communicator&)>;

  // Every rank of `group` makes one. A group of one rank gets no thread: its calls run at once.
  explicit Background(Communicator& group);
  // Breaks off what still runs or waits.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }

  // Returns the number of the call.
  std::int64_t submit(Call call);
  // Until that call and all before it are done. Throws what the first call to fail threw; none runs after it.
  void wait(std::int64_t call);
  void wait() { wait(submitted_); }

 private:
  void run();

  std::unique_ptr<Communicator> group_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Call> calls_;                 // not yet begun
  std::int64_t submitted_ = 0, done_ = 0;  // numbers of the latest calls
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace wuneng::parallel
