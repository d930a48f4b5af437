#include "parallel/background.h"

#include <ATen/core/grad_mode.h>

namespace wuneng::parallel {

Background::Background(Communicator& group) : group_(group.background()) {
  if (group_->size() > 1) thread_ = std::thread([this] { run(); });
}

Background::~Background() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  group_->cancel();
  changed_.notify_all();
  thread_.join();
}

std::int64_t Background::submit(Call call) {
  if (!thread_.joinable()) {
    call(*group_);
    return done_ = ++submitted_;
  }
  const std::lock_guard lock(mutex_);
  calls_.push_back(std::move(call));
  changed_.notify_all();
  return ++submitted_;
}

void Background::wait(std::int64_t call) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= call || failure_; });
  if (failure_) std::rethrow_exception(failure_);
}

void Background::run() {
  const at::NoGradGuard no_grad;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !calls_.empty(); });
    if (stop_) return;
    const Call call = std::move(calls_.front());
    calls_.pop_front();
    lock.unlock();
    std::exception_ptr failure;
    try {
      call(*group_);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    ++done_;
    failure_ = failure;
    changed_.notify_all();
    if (failure_) return;
  }
}

}  // namespace wuneng::parallel
