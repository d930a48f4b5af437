#ifdef WUNENG_WITH_NCCL
#include "parallel/nccl.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

using Clock = std::chrono::steady_clock;

void check_nccl(ncclResult_t result, const char* call) {
  if (result == ncclSuccess) return;
  throw Error(fmt::format("{}: NCCL {}: {}", call, ncclGetErrorString(result), ncclGetLastError(nullptr)));
}

void check_cuda(cudaError_t result, const char* call) {
  if (result != cudaSuccess) throw Error(fmt::format("{}: CUDA: {}", call, cudaGetErrorString(result)));
}

ncclDataType_t nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kLong:
      return ncclInt64;
    default:
      break;
  }
  throw Error(fmt::format("communicator: dtype {} is not float32, float64, bfloat16 or int64",
                          c10::toString(tensor.scalar_type())));
}

// An event of a call's end, or of what it waits for.
class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Event() {
    if (event_) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;

  void record(const c10::cuda::CUDAStream& stream) const {
    check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  void hold(const c10::cuda::CUDAStream& stream) const {
    check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  cudaError_t state() const { return cudaEventQuery(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

// A communicator of NCCL with a thread that aborts it when a call fails or takes too long.
class Watched {
 public:
  Watched(ncclComm_t communicator, int device, std::chrono::seconds limit)
      : communicator_(communicator), device_(device), limit_(limit), thread_([this] { watch(); }) {}
  ~Watched() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
    if (!aborted_) pending_.empty() ? ncclCommDestroy(communicator_) : ncclCommAbort(communicator_);
  }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  // queue(communicator) hands a call to NCCL and returns the event of its end. Throws what made it abort.
  template <class Queue>
  void call(const char* name, Queue queue) {
    std::unique_lock lock(mutex_);
    if (aborted_) throw Error(fmt::format("{}: {}", name, failure_));
    pending_.push_back({std::nullopt, name, Clock::now()});
    lock.unlock();  // queueing may wait for other ranks
    Event end = queue(communicator_);
    lock.lock();
    pending_.back().end.emplace(std::move(end));
  }
  void abort(const std::string& why) {
    const std::lock_guard lock(mutex_);
    abort_locked(why);
  }

 private:
  struct Pending {
    std::optional<Event> end;  // none: being queued
    const char* name;
    Clock::time_point begin;
  };

  void watch() {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return stop_; })) {
      if (aborted_) continue;
      ncclResult_t result = ncclSuccess;
      if (const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &result); asked != ncclSuccess)
        result = asked;
      if (result != ncclSuccess && result != ncclInProgress)
        abort_locked(
            fmt::format("NCCL reported {}: {}", ncclGetErrorString(result), ncclGetLastError(communicator_)));
      while (!pending_.empty() && pending_.front().end && pending_.front().end->state() != cudaErrorNotReady)
        pending_.pop_front();
      if (!aborted_ && !pending_.empty() && Clock::now() - pending_.front().begin > limit_)
        abort_locked(fmt::format("{} was not done after {} s", pending_.front().name, limit_.count()));
    }
  }
  void abort_locked(const std::string& why) {
    if (aborted_) return;
    aborted_ = true;
    failure_ = why;
    ncclCommAbort(communicator_);
  }

  ncclComm_t communicator_;
  int device_;
  std::chrono::seconds limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Pending> pending_;
  bool stop_ = false, aborted_ = false;
  std::string failure_;
  std::thread thread_;
};

class Nccl final : public Communicator {
 public:
  Nccl(std::unique_ptr<Communicator> control, int device, std::chrono::seconds limit)
      : control_(std::move(control)),
        device_(device),
        limit_(limit),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, static_cast<c10::DeviceIndex>(device))),
        watched_(joined(*control_, device), device, limit) {}

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }

  void broadcast(const at::Tensor& tensor, int root) override {
    call("broadcast", {tensor}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), count(tensor), nccl_type(tensor), root, nccl,
                           stream);
    });
  }
  void all_reduce_sum(const at::Tensor& tensor) override {
    call("all_reduce_sum", {tensor}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), count(tensor), nccl_type(tensor), ncclSum,
                           nccl, stream);
    });
  }
  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    check_pieces(all, mine, "reduce_scatter_sum");
    call("reduce_scatter_sum", {all, mine}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclReduceScatter(all.const_data_ptr(), mine.data_ptr(), count(mine), nccl_type(mine), ncclSum,
                               nccl, stream);
    });
  }
  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    check_pieces(all, mine, "all_gather");
    call("all_gather", {mine, all}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclAllGather(mine.const_data_ptr(), all.data_ptr(), count(mine), nccl_type(mine), nccl, stream);
    });
  }
  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    WN_CHECK(send.numel() == receive.numel() && send.numel() % size() == 0 &&
                 send.scalar_type() == receive.scalar_type(),
             "all_to_all: {} elements to send and {} to receive are not {} equal pieces", send.numel(),
             receive.numel(), size());
    call("all_to_all", {send, receive}, [&](ncclComm_t nccl, cudaStream_t stream) {
      const std::size_t piece = count(send) / static_cast<std::size_t>(size()),
                        bytes = piece * send.element_size();
      const auto* from = static_cast<const char*>(send.const_data_ptr());
      auto* to = static_cast<char*>(receive.data_ptr());
      check_nccl(ncclGroupStart(), "ncclGroupStart");
      ncclResult_t result = ncclSuccess;
      for (std::size_t r = 0; r < static_cast<std::size_t>(size()) && result == ncclSuccess; ++r) {
        const int rank = static_cast<int>(r);
        result = ncclSend(from + r * bytes, piece, nccl_type(send), rank, nccl, stream);
        if (result == ncclSuccess)
          result = ncclRecv(to + r * bytes, piece, nccl_type(receive), rank, nccl, stream);
      }
      const ncclResult_t ended = ncclGroupEnd();
      return result == ncclSuccess ? ended : result;
    });
  }
  void send(const at::Tensor& tensor, int to) override {
    call("send", {tensor}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclSend(tensor.const_data_ptr(), count(tensor), nccl_type(tensor), to, nccl, stream);
    });
  }
  void receive(const at::Tensor& tensor, int from) override {
    call("receive", {tensor}, [&](ncclComm_t nccl, cudaStream_t stream) {
      return ncclRecv(tensor.data_ptr(), count(tensor), nccl_type(tensor), from, nccl, stream);
    });
  }

  void barrier() override { control_->barrier(); }
  std::vector<std::string> all_gather_text(const std::string& mine) override {
    return control_->all_gather_text(mine);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    return make_nccl(control_->split(colour), device_, limit_);
  }
  std::unique_ptr<Communicator> background() override {
    return make_nccl(control_->background(), device_, limit_);
  }
  void cancel() override {
    control_->cancel();
    watched_.abort("broken off");
  }

 private:
  static std::size_t count(const at::Tensor& tensor) { return static_cast<std::size_t>(tensor.numel()); }

  // A new communicator of NCCL over the ranks of `control`: rank 0 makes the id that all of them join by.
  static ncclComm_t joined(Communicator& control, int device) {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    ncclUniqueId id{};
    if (control.rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    const std::string text = control.all_gather_text(std::string(id.internal, sizeof id.internal))[0];
    std::memcpy(id.internal, text.data(), sizeof id.internal);
    ncclComm_t communicator = nullptr;
    check_nccl(ncclCommInitRank(&communicator, control.size(), id, control.rank()), "ncclCommInitRank");
    return communicator;
  }

  void check_pieces(const at::Tensor& all, const at::Tensor& mine, const char* name) const {
    WN_CHECK(all.numel() == mine.numel() * size() && all.scalar_type() == mine.scalar_type(),
             "{}: {} elements are not {} for each of {} ranks", name, all.numel(), mine.numel(), size());
  }

  template <class Queue>
  void call(const char* name, std::initializer_list<at::Tensor> tensors, Queue queue) {
    for (const at::Tensor& tensor : tensors)
      WN_CHECK(
          tensor.defined() && tensor.is_cuda() && tensor.get_device() == device_ && tensor.is_contiguous(),
          "{}: the tensor must be contiguous and on CUDA device {}", name, device_);
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
    const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream();
    watched_.call(name, [&](ncclComm_t nccl) {
      Event begin, end;
      begin.record(current);
      begin.hold(stream_);
      check_nccl(queue(nccl, stream_), name);
      end.record(stream_);
      end.hold(current);
      // Memory that is freed while the call still uses it must not be handed out again.
      for (const at::Tensor& tensor : tensors)
        c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(), stream_);
      return end;
    });
  }

  std::unique_ptr<Communicator> control_;
  int device_;
  std::chrono::seconds limit_;
  c10::cuda::CUDAStream stream_;
  Watched watched_;
};

}  // namespace

std::string nccl_version() {
  int number = 0;  // 22809 is 2.28.9
  check_nccl(ncclGetVersion(&number), "ncclGetVersion");
  return fmt::format("{}.{}.{}", number / 10000, number % 10000 / 100, number % 100);
}

std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> control, int device,
                                        std::chrono::seconds limit) {
  return std::make_unique<Nccl>(std::move(control), device, limit);
}

}  // namespace wuneng::parallel
#endif
