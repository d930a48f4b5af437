#ifdef WUNENG_WITH_MPI
#include "parallel/mpi.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

// Large calls go in pieces: Open MPI 4.1 moves 1 to 4 MiB pieces through shared memory three times as fast as
// one large call.
constexpr std::int64_t piece_bytes = 2 << 20;

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
  explicit Mpi(MPI_Comm owned) : group_(owned) {
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

  void all_gather(const at::Tensor& mine, const at::Tensor& all) override {
    check_tensor(mine, "all_gather");
    check_tensor(all, "all_gather");
    WN_CHECK(all.numel() == mine.numel() * size_ && all.scalar_type() == mine.scalar_type(),
             "all_gather: {} elements cannot hold {} from each of {} ranks", all.numel(), mine.numel(),
             size_);
    exchange(
        mine.numel(), mine, all,
        [&](const void* from, void* to, int count, MPI_Datatype type) {
          check_result(MPI_Allgather(from, count, type, to, count, type, group_), "MPI_Allgather");
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
          check_result(MPI_Alltoall(from, count, type, to, count, type, group_), "MPI_Alltoall");
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
    return std::make_unique<Mpi>(part);
  }

 private:
  static char* at(const at::Tensor& tensor, std::int64_t element) {
    return static_cast<char*>(tensor.data_ptr()) + element * static_cast<std::int64_t>(tensor.element_size());
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
    if (count * bytes * size_ <= piece_bytes)
      return call(send.data_ptr(), receive.data_ptr(), static_cast<int>(count), type);
    const std::int64_t most = std::max<std::int64_t>(1, piece_bytes / bytes / size_);
    std::vector<char> packed(static_cast<std::size_t>(send_all_pieces ? size_ * most * bytes : 0));
    std::vector<char> received(static_cast<std::size_t>(size_ * most * bytes));
    for (std::int64_t begin = 0; begin < count; begin += most) {
      const std::int64_t n = std::min(most, count - begin);
      const void* from = at(send, begin);
      if (send_all_pieces) {
        for (int r = 0; r < size_; ++r)
          std::memcpy(packed.data() + r * n * bytes, at(send, r * count + begin), n * bytes);
        from = packed.data();
      }
      call(from, received.data(), static_cast<int>(n), type);
      for (int r = 0; r < size_; ++r)
        std::memcpy(at(receive, r * count + begin), received.data() + r * n * bytes, n * bytes);
    }
  }

  MPI_Comm group_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi(MPI_Comm group) {
  MPI_Comm own = MPI_COMM_NULL;
  check_result(MPI_Comm_dup(group, &own), "MPI_Comm_dup");
  return std::make_unique<Mpi>(own);
}

}  // namespace wuneng::parallel
#endif
