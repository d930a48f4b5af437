#include "parallel/roll_call.h"

#include <thread>
#ifdef WUNENG_WITH_MPI
#include <mpi.h>
#endif

namespace wuneng::parallel {

namespace {
constexpr int question_tag = 1, answer_tag = 2;
}

#ifdef WUNENG_WITH_MPI
struct RollCall::Links {
  Links() {
    MPI_Comm_dup(MPI_COMM_WORLD, &group);
    MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);  // a dead rank says nothing, and that is all
  }
  ~Links() {
    for (Letter& letter : sent) MPI_Request_free(&letter.request);
    MPI_Comm_free(&group);
  }
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  void send(int to, int tag, const std::string& text) {
    Letter& letter = sent.emplace_back(Letter{text, MPI_REQUEST_NULL});
    MPI_Isend(letter.text.data(), static_cast<int>(letter.text.size()), MPI_CHAR, to, tag, group,
              &letter.request);
  }

  // Takes a letter with this tag if one has come; `from` is its sender.
  bool receive(int tag, int& from, std::string& text) {
    int there = 0, length = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, group, &there, &status) != MPI_SUCCESS || !there) return false;
    MPI_Get_count(&status, MPI_CHAR, &length);
    text.resize(static_cast<std::size_t>(length));
    from = status.MPI_SOURCE;
    return MPI_Recv(text.data(), length, MPI_CHAR, from, tag, group, MPI_STATUS_IGNORE) == MPI_SUCCESS;
  }

  struct Letter {
    std::string text;
    MPI_Request request;
  };
  MPI_Comm group = MPI_COMM_NULL;
  std::deque<Letter> sent;  // nobody waits for their arrival: the receiver may be dead
};
#else
struct RollCall::Links {
  void send(int, int, const std::string&) {}
  bool receive(int, int&, std::string&) { return false; }
};
#endif

RollCall::RollCall(World& world)
    : links_(world.size() > 1 ? std::make_unique<Links>() : nullptr),
      rank_(world.rank()),
      size_(world.size()) {}

RollCall::~RollCall() = default;

bool RollCall::answer(const std::string& words) {
  bool asked = false;
  int from = 0;
  for (std::string question; links_ && links_->receive(question_tag, from, question); asked = true)
    links_->send(from, answer_tag, words);
  return asked;
}

std::vector<std::string> RollCall::ask(const std::string& mine, std::chrono::milliseconds patience) {
  std::vector<std::string> words(static_cast<std::size_t>(size_));
  words[static_cast<std::size_t>(rank_)] = mine;
  for (int r = 0; r < size_; ++r)
    if (r != rank_) links_->send(r, question_tag, "?");
  int missing = size_ - 1;
  const auto end = std::chrono::steady_clock::now() + patience;
  while (missing > 0 && std::chrono::steady_clock::now() < end) {
    answer(mine);
    int from = 0;
    std::string text;
    if (!links_->receive(answer_tag, from, text)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      continue;
    }
    words[static_cast<std::size_t>(from)] = text;
    --missing;
  }
  return words;
}

}  // namespace wuneng::parallel
