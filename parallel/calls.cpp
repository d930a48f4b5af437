#include "parallel/calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace wuneng::parallel {
namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Size {
  double value;
  const char* unit;
};

Size readable(std::int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1 << 20) return {value / (1 << 20), "MiB"};
  if (bytes >= 1 << 10) return {value / (1 << 10), "KiB"};
  return {value, "bytes"};
}

// Notes one call for as long as the object lives; a call that throws has ended too.
class Noted {
 public:
  Noted(Calls& calls, const char* name, std::int64_t bytes, int ranks)
      : calls_(calls), number_(calls.begin(name, bytes, ranks)) {}
  ~Noted() { calls_.end(number_); }
  Noted(const Noted&) = delete;
  Noted& operator=(const Noted&) = delete;

 private:
  Calls& calls_;
  std::uint64_t number_;
};

class Recorded final : public Communicator {
 public:
  Recorded(std::unique_ptr<Communicator> inner, Calls& calls) : inner_(std::move(inner)), calls_(calls) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void broadcast(const at::Tensor& tensor, int root) override {
    const Noted noted = note("broadcast", tensor);
    inner_->broadcast(tensor, root);
  }
  void all_reduce_sum(const at::Tensor& tensor) override {
    const Noted noted = note("all_reduce_sum", tensor);
    inner_->all_reduce_sum(tensor);
  }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    const Noted noted = note("reduce_scatter_sum", all);
    inner_->reduce_scatter_sum(all, mine);
  }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    const Noted noted = note("all_gather", all);
    inner_->all_gather(mine, all);
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    const Noted noted = note("all_to_all", send);
    inner_->all_to_all(send, receive);
  }
  void send(const at::Tensor& tensor, int to) override {
    const Noted noted = note("send", tensor);
    inner_->send(tensor, to);
  }
  void receive(const at::Tensor& tensor, int from) override {
    const Noted noted = note("receive", tensor);
    inner_->receive(tensor, from);
  }
  void barrier() override {
    const Noted noted(calls_, "barrier", 0, size());
    inner_->barrier();
  }
  std::vector<std::string> all_gather_text(const std::string& mine) override {
    const Noted noted(calls_, "all_gather_text", 0, size());  // texts differ in length between ranks
    return inner_->all_gather_text(mine);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    const Noted noted(calls_, "split", 0, size());
    return std::make_unique<Recorded>(inner_->split(colour), calls_);
  }
  std::unique_ptr<Communicator> background() override {
    const Noted noted(calls_, "background", 0, size());
    return std::make_unique<Recorded>(inner_->background(), calls_);
  }
  void cancel() override { inner_->cancel(); }

 private:
  Noted note(const char* name, const at::Tensor& tensor) const {
    return {calls_, name, tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0, size()};
  }

  std::unique_ptr<Communicator> inner_;
  Calls& calls_;
};

}  // namespace

std::uint64_t Calls::begin(const char* name, std::int64_t bytes, int ranks) {
  const std::uint64_t number = ++begun_;
  Call& call = calls_[number % calls_.size()];
  call.number = 0;  // whoever reads now takes it for none
  call.name = name;
  call.bytes = bytes;
  call.ranks = ranks;
  call.thread = ::pthread_self();
  call.begin = now_ns();
  call.end = 0;
  call.number = number;
  return number;
}

void Calls::end(std::uint64_t number) {
  Call& call = calls_[number % calls_.size()];
  if (call.number == number) call.end = now_ns();
  ++ended_;
}

bool Calls::in_call() const { return begun_ != ended_; }

std::vector<pthread_t> Calls::threads_in_calls() const {
  std::vector<pthread_t> threads;
  for (const Call& call : calls_)
    if (call.number != 0 && call.end == 0) threads.push_back(call.thread);
  return threads;
}

// The oldest call that has not ended, which is what a rank hangs in; else the newest.
const Calls::Call* Calls::most_telling() const {
  const Call *open = nullptr, *newest = nullptr;
  for (const Call& call : calls_) {
    if (call.number == 0) continue;
    if (!newest || call.number > newest->number) newest = &call;
    if (call.end == 0 && (!open || call.number < open->number)) open = &call;
  }
  return open ? open : newest;
}

std::size_t Calls::describe(char* buffer, std::size_t size, bool with_time) const {
  const Call* call = most_telling();
  if (!call) return 0;
  const std::int64_t end = call->end;
  std::size_t length = 0;
  const auto add = [&](fmt::string_view format, const auto&... values) {
    const auto out = fmt::format_to_n(buffer + length, size - length, fmt::runtime(format), values...);
    length += std::min(out.size, size - length);
  };
  add("{} {}", end == 0 ? "in" : "last in", call->name.load());
  if (call->bytes > 0) {
    const Size bytes = readable(call->bytes);
    add(" of {:.{}f} {}", bytes.value, call->bytes < 1 << 10 ? 0 : 1, bytes.unit);
  }
  add(" among {} ranks (call {})", call->ranks.load(), call->number.load());
  if (with_time) {
    const double seconds = 1e-9 * static_cast<double>(now_ns() - (end == 0 ? call->begin.load() : end));
    add(end == 0 ? " for {:.1f} s" : " {:.1f} s ago", seconds);
  }
  return length;
}

std::string Calls::describe(bool with_time) const {
  std::array<char, 256> buffer;
  return {buffer.data(), describe(buffer.data(), buffer.size(), with_time)};
}

std::unique_ptr<Communicator> make_recorded(std::unique_ptr<Communicator> inner, Calls& calls) {
  return std::make_unique<Recorded>(std::move(inner), calls);
}

}  // namespace wuneng::parallel
