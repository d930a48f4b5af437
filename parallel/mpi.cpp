#ifdef WUNENG_WITH_MPI
#include "parallel/mpi.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

// Large sums and exchanges go in pieces: Open MPI 4.1 moves 1 to 4 MiB pieces through shared memory two to
// three times as fast as one large call. A gather is fastest whole; its limit is that of MPI's counts.
constexpr std::int64_t piece_bytes = 2 << 20, gather_bytes = 1 << 30;

MPI_Datatype mpi_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    default:
      break;
  }
  throw Error(fmt::format("communicator: dtype {} is not float32, float64 or int64",
                          c10::toString(tensor.scalar_type())));
}

void check_tensor(const at::Tensor& tensor, const char* call) {
  WN_CHECK(tensor.defined() && tensor.device().is_cpu() && tensor.is_contiguous(),
           "{}: the tensor must be contiguous and on the CPU", call);
}

void check_result(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(fmt::format("{} failed: {}", call, std::string(text, static_cast<std::size_t>(length))));
}

class Mpi final : public Communicator {
 public:
  // `patient`: for a thread beside one that computes. Its calls return to it between tries, and it leaves the
  // core meanwhile, where a blocking call of MPI would hold on to it: the longer a call takes, the longer.
  Mpi(MPI_Comm owned, bool patient) : group_(owned), patient_(patient) {
    MPI_Comm_set_errhandler(group_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(group_, &rank_);
    MPI_Comm_size(group_, &size_);
  }
  ~Mpi() override { MPI_Comm_free(&group_); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void broadcast(const at::Tensor& tensor, int root) override {
    check_tensor(tensor, "broadcast");
    for_pieces(tensor.numel(), tensor.element_size(), [&](std::int64_t begin, int count) {
      check_result(MPI_Bcast(at(tensor, begin), count, mpi_type(tensor), root, group_), "MPI_Bcast");
    });
  }

  void all_reduce_sum(const at::Tensor& tensor) override {
    check_tensor(tensor, "all_reduce_sum");
    for_pieces(tensor.numel(), tensor.element_size(), [&](std::int64_t begin, int count) {
      check_result(MPI_Allreduce(MPI_IN_PLACE, at(tensor, begin), count, mpi_type(tensor), MPI_SUM, group_),
                   "MPI_Allreduce");
    });
  }

  void reduce_scatter_sum(const at::Tensor& all, const at::Tensor& mine) override {
    check_pieces(all, mine, "reduce_scatter_sum");
    const MPI_Datatype type = mpi_type(all);
    const std::int64_t count = mine.numel(), bytes = static_cast<std::int64_t>(all.element_size());
    const std::int64_t most = std::min(count, std::max<std::int64_t>(1, piece_bytes / bytes / size_));
    std::vector<char> packed(static_cast<std::size_t>(most < count ? size_ * most * bytes : 0));
    for (std::int64_t begin = 0; begin < count; begin += most) {
      const auto n = static_cast<int>(std::min(most, count - begin));
      const void* from = all.data_ptr();
      if (most < count) from = pack(all, count, begin, n, packed);
      call("MPI_Reduce_scatter_block", [&](MPI_Request* request) {
        return request ? MPI_Ireduce_scatter_block(from, at(mine, begin), n, type, MPI_SUM, group_, request)
                       : MPI_Reduce_scatter_block(from, at(mine, begin), n, type, MPI_SUM, group_);
      });
    }
  }

  void send(const at::Tensor& tensor, int to) override {
    check_tensor(tensor, "send");
    for_pieces(tensor.numel(), tensor.element_size(), [&](std::int64_t begin, int count) {
      check_result(MPI_Send(at(tensor, begin), count, mpi_type(tensor), to, 0, group_), "MPI_Send");
    });
  }

  void receive(const at::Tensor& tensor, int from) override {
    check_tensor(tensor, "receive");
    for_pieces(tensor.numel(), tensor.element_size(), [&](std::int64_t begin, int count) {
      check_result(MPI_Recv(at(tensor, begin), count, mpi_type(tensor), from, 0, group_, MPI_STATUS_IGNORE),
                   "MPI_Recv");
    });
  }

  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    check_pieces(all, mine, "all_gather");
    const bool in_place = mine.data_ptr() == at(all, rank_ * mine.numel());
    exchange(
        mine.numel(), mine, all,
        [&](const void* from, void* to, int count, MPI_Datatype type) {
          if (in_place && to == all.data_ptr()) from = MPI_IN_PLACE;
          call("MPI_Allgather", [&](MPI_Request* request) {
            return request ? MPI_Iallgather(from, count, type, to, count, type, group_, request)
                           : MPI_Allgather(from, count, type, to, count, type, group_);
          });
        },
        false);
  }

  void all_to_all(const at::Tensor& send, const at::Tensor& receive) override {
    check_tensor(send, "all_to_all");
    check_tensor(receive, "all_to_all");
    WN_CHECK(send.numel() == receive.numel() && send.numel() % size_ == 0 &&
                 send.scalar_type() == receive.scalar_type(),
             "all_to_all: {} elements to send and {} to receive are not {} equal pieces", send.numel(),
             receive.numel(), size_);
    exchange(
        send.numel() / size_, send, receive,
        [&](const void* from, void* to, int count, MPI_Datatype type) {
          call("MPI_Alltoall", [&](MPI_Request* request) {
            return request ? MPI_Ialltoall(from, count, type, to, count, type, group_, request)
                           : MPI_Alltoall(from, count, type, to, count, type, group_);
          });
        },
        true);
  }

  void barrier() override { check_result(MPI_Barrier(group_), "MPI_Barrier"); }

  std::vector<std::string> all_gather_text(const std::string& mine) override {
    const int length = static_cast<int>(mine.size());
    std::vector<int> lengths(size_), offsets(size_, 0);
    check_result(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, group_), "MPI_Allgather");
    for (int r = 1; r < size_; ++r) offsets[r] = offsets[r - 1] + lengths[r - 1];
    std::string joined(static_cast<std::size_t>(offsets.back() + lengths.back()), '\0');
    check_result(MPI_Allgatherv(mine.data(), length, MPI_CHAR, joined.data(), lengths.data(), offsets.data(),
                                MPI_CHAR, group_),
                 "MPI_Allgatherv");
    std::vector<std::string> texts;
    for (int r = 0; r < size_; ++r) texts.push_back(joined.substr(offsets[r], lengths[r]));
    return texts;
  }

  std::unique_ptr<Communicator> split(int colour) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_result(MPI_Comm_split(group_, colour, rank_, &part), "MPI_Comm_split");
    return std::make_unique<Mpi>(part, false);
  }

  std::unique_ptr<Communicator> background() override {
    MPI_Comm copy = MPI_COMM_NULL;
    check_result(MPI_Comm_dup(group_, &copy), "MPI_Comm_dup");
    return std::make_unique<Mpi>(copy, true);
  }
  void cancel() override { cancelled_ = true; }

 private:
  static char* at(const at::Tensor& tensor, std::int64_t element) {
    return static_cast<char*>(tensor.data_ptr()) + element * static_cast<std::int64_t>(tensor.element_size());
  }

  void check_pieces(const at::Tensor& all, const at::Tensor& mine, const char* name) const {
    check_tensor(mine, name);
    check_tensor(all, name);
    WN_CHECK(all.numel() == mine.numel() * size_ && all.scalar_type() == mine.scalar_type(),
             "{}: {} elements are not {} for each of {} ranks", name, all.numel(), mine.numel(), size_);
  }

  // start(null) makes the call, start(&request) only begins it.
  template <class Start>
  void call(const char* name, Start start) {
    if (!patient_) return check_result(start(nullptr), name);
    using std::chrono::microseconds, std::chrono::steady_clock;
    const auto begin = steady_clock::now();
    MPI_Request request = MPI_REQUEST_NULL;
    check_result(start(&request), name);
    for (int done = 0; !done;) {
      check_result(MPI_Test(&request, &done, MPI_STATUS_IGNORE), name);
      if (done) break;
      if (cancelled_) throw Error(fmt::format("{}: broken off", name));
      const auto waited = std::chrono::duration_cast<microseconds>(steady_clock::now() - begin);
      std::this_thread::sleep_for(std::clamp(waited / 8, microseconds(20), microseconds(500)));
    }
  }

  // Elements [begin, begin + n) of every rank's piece of `count` elements, side by side.
  const char* pack(const at::Tensor& pieces, std::int64_t count, std::int64_t begin, std::int64_t n,
                   std::vector<char>& packed) const {
    const auto bytes = n * static_cast<std::int64_t>(pieces.element_size());
    for (int r = 0; r < size_; ++r)
      std::memcpy(packed.data() + r * bytes, at(pieces, r * count + begin), static_cast<std::size_t>(bytes));
    return packed.data();
  }

  template <class Call>
  static void for_pieces(std::int64_t elements, std::size_t element_bytes, Call call) {
    const std::int64_t most = piece_bytes / static_cast<std::int64_t>(element_bytes);
    for (std::int64_t begin = 0; begin < elements; begin += most)
      call(begin, static_cast<int>(std::min(most, elements - begin)));
  }

  // Runs an all-gather (one piece sent) or all-to-all (one piece per rank sent) of `count` elements per piece
  // in slices of limited size: slice i of every piece is packed side by side, exchanged, and unpacked.
  template <class Call>
  void exchange(std::int64_t count, const at::Tensor& send, const at::Tensor& receive, Call call,
                bool send_all_pieces) {
    const auto bytes = static_cast<std::int64_t>(send.element_size());
    const MPI_Datatype type = mpi_type(send);
    const std::int64_t limit = send_all_pieces ? piece_bytes : gather_bytes;
    if (count * bytes * size_ <= limit)
      return call(send.data_ptr(), receive.data_ptr(), static_cast<int>(count), type);
    const std::int64_t most = std::max<std::int64_t>(1, limit / bytes / size_);
    std::vector<char> packed(static_cast<std::size_t>(send_all_pieces ? size_ * most * bytes : 0));
    std::vector<char> received(static_cast<std::size_t>(size_ * most * bytes));
    for (std::int64_t begin = 0; begin < count; begin += most) {
      const std::int64_t n = std::min(most, count - begin);
      const void* from = send_all_pieces ? pack(send, count, begin, n, packed) : at(send, begin);
      call(from, received.data(), static_cast<int>(n), type);
      for (int r = 0; r < size_; ++r)
        std::memcpy(at(receive, r * count + begin), received.data() + r * n * bytes, n * bytes);
    }
  }

  MPI_Comm group_;
  bool patient_;
  std::atomic<bool> cancelled_ = false;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi(MPI_Comm group) {
  MPI_Comm own = MPI_COMM_NULL;
  check_result(MPI_Comm_dup(group, &own), "MPI_Comm_dup");
  return std::make_unique<Mpi>(own, false);
}

}  // namespace wuneng::parallel
#endif
