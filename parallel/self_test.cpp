#include "parallel/self_test.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

// Longer than what Open MPI sends without asking the receiver first, so that both ways are tried.
constexpr std::int64_t length = 5000;

at::Tensor filled(std::int64_t elements, const std::function<double(std::int64_t)>& value) {
  at::Tensor tensor = at::empty({elements}, at::kDouble);
  auto* data = tensor.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < elements; ++i) data[i] = value(i);
  return tensor;
}

void check_answer(const std::string& call, const at::Tensor& got,
                  const std::function<double(std::int64_t)>& right) {
  const auto* data = got.const_data_ptr<double>();
  for (std::int64_t i = 0; i < got.numel(); ++i)
    WN_CHECK(data[i] == right(i),
             "{}: element {} is {} instead of {}: the MPI library or the network of this job returns wrong "
             "data; try other nodes, or mpirun --mca pml ob1 --mca btl self,vader,tcp",
             call, i, data[i], right(i));
}

}  // namespace

// Every value is a whole number, so that sums are exact in any order.
void self_test(Communicator& world, const std::string& host) {
  const std::int64_t n = world.size(), me = world.rank();
  const std::string place = fmt::format("rank {} of {} on {}, self-test of the network, ", me, n, host);
  const auto of_rank = [](std::int64_t rank, std::int64_t i) {
    return static_cast<double>(rank * length + i);
  };

  at::Tensor sum = filled(length, [&](std::int64_t i) { return of_rank(me, i); });
  world.all_reduce_sum(sum);
  check_answer(place + "all_reduce_sum", sum,
               [&](std::int64_t i) { return static_cast<double>(n * (n - 1) / 2 * length + n * i); });

  at::Tensor all = filled(n * length, [](std::int64_t) { return -1.0; });
  world.all_gather(filled(length, [&](std::int64_t i) { return of_rank(me, i); }), all);
  check_answer(place + "all_gather", all, [](std::int64_t i) { return static_cast<double>(i); });

  // Rank r sends r * n + s to rank s.
  at::Tensor received = filled(n, [](std::int64_t) { return -1.0; });
  world.all_to_all(filled(n, [&](std::int64_t s) { return static_cast<double>(me * n + s); }), received);
  check_answer(place + "all_to_all", received,
               [&](std::int64_t r) { return static_cast<double>(r * n + me); });

  at::Tensor told = filled(length, [&](std::int64_t i) { return of_rank(me, i); });
  world.broadcast(told, static_cast<int>(n - 1));
  check_answer(place + "broadcast", told, [&](std::int64_t i) { return of_rank(n - 1, i); });
}

StartLimit::StartLimit(int seconds, std::string who)
    : thread_([this, seconds, who = std::move(who)] { watch(seconds, who); }) {}

StartLimit::~StartLimit() {
  {
    const std::lock_guard lock(mutex_);
    reached_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void StartLimit::watch(int seconds, const std::string& who) {
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, std::chrono::seconds(seconds), [&] { return reached_; })) return;
  std::fprintf(
      stderr,
      "wuneng: error: %s: the ranks have not reached each other within %d s of the start. Is a rank "
      "missing or stopped? Where hosts have several networks, name the one that joins them: "
      "--mca btl_tcp_if_include and oob_tcp_if_include CIDR. WUNENG_START_LIMIT sets these seconds\n",
      who.c_str(), seconds);
  std::fflush(stderr);
  // MPI may not have started yet, or hold its locks: the launcher ends the others when a process ends so.
  std::_Exit(static_cast<int>(ExitCode::failed));
}

}  // namespace wuneng::parallel
