#include "trainer/agreement.h"

#include <c10/util/Exception.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <new>

namespace wuneng::trainer {
namespace {

struct Failure {
  std::string message;  // empty: none
  ExitCode code = ExitCode::done;
};

Failure attempt(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return {error.what(), error.code()};
  } catch (const c10::Error& error) {
    return {error.what_without_backtrace(), ExitCode::failed};
  } catch (const std::bad_alloc&) {
    return {"out of memory; make trainer.micro_batch or data.sequence_length smaller", ExitCode::failed};
  } catch (const std::exception& error) {
    return {error.what(), ExitCode::failed};
  }
}

std::string host_name() {
  char name[256] = "unknown";
  ::gethostname(name, sizeof name - 1);
  return name;
}

void print(const std::string& message) {
  std::fprintf(stderr, "wuneng: error: %s\n", message.c_str());
  std::fflush(stderr);
}

}  // namespace

std::string list_ranks(const std::vector<int>& ranks) {
  std::string text;
  constexpr std::size_t shown = 8;
  for (std::size_t i = 0; i < std::min(ranks.size(), shown); ++i)
    text += fmt::format("{}{}", i ? ", " : "", ranks[i]);
  if (ranks.size() > shown) text += fmt::format(" and {} more", ranks.size() - shown);
  return text;
}

void agree(parallel::Communicator& world, const std::function<void()>& work) {
  const Failure mine = attempt(work);
  const std::vector<std::string> all = world.all_gather_text(
      mine.message.empty() ? ""
                           : fmt::format("{}{}\n{}", static_cast<int>(mine.code), host_name(), mine.message));
  std::vector<int> failed;
  for (int r = 0; r < world.size(); ++r)
    if (!all[r].empty()) failed.push_back(r);
  if (failed.empty()) return;
  const std::string& first = all[failed.front()];
  const std::size_t line = first.find('\n');
  const auto code = static_cast<ExitCode>(first[0] - '0');
  const std::string host = first.substr(1, line - 1), message = first.substr(line + 1);
  const bool everywhere = static_cast<int>(failed.size()) == world.size();
  throw AgreedError(
      everywhere ? message : fmt::format("rank {} on {}: {}", list_ranks(failed), host, message), code);
}

void check_same(parallel::World& world, const std::vector<Fact>& facts) {
  const std::vector<std::string> hosts = world.communicator().all_gather_text(world.host());
  for (const Fact& fact : facts) {
    const std::vector<std::string> values = world.communicator().all_gather_text(fact.value);
    std::map<std::string, std::vector<int>> ranks_of;
    for (int r = 0; r < world.size(); ++r) ranks_of[values[r]].push_back(r);
    if (ranks_of.size() == 1) continue;
    // The odd ones are those outside the largest set of equal ranks.
    const auto largest = std::max_element(ranks_of.begin(), ranks_of.end(), [](const auto& a, const auto& b) {
      return a.second.size() < b.second.size() ||
             (a.second.size() == b.second.size() && a.second.front() > b.second.front());
    });
    std::string text;
    for (const auto& [value, ranks] : ranks_of)
      if (value != largest->first)
        text += fmt::format("; rank {} on {} has {}", list_ranks(ranks), hosts[ranks.front()], value);
    throw AgreedError(
        fmt::format("{} differs between the ranks: rank {} has {}{}; start all ranks from the same program, "
                    "configuration and data",
                    fact.name, list_ranks(largest->second), largest->first, text),
        ExitCode::usage);
  }
}

int run_guarded(parallel::World& world, const std::function<ExitCode()>& body,
                const std::function<std::string()>& where) {
  ExitCode result = ExitCode::done;
  std::string agreed;
  const Failure failure = attempt([&] {
    try {
      result = body();
    } catch (const AgreedError& error) {
      agreed = error.what();
      result = error.code();
    }
  });
  const std::string place = where();
  if (!agreed.empty() && world.rank() == 0) {
    const bool running = result == ExitCode::failed && place.starts_with("step");
    print(running ? fmt::format("{} ({})", agreed, place) : agreed);
  }
  if (failure.message.empty()) return static_cast<int>(result);
  if (world.size() == 1) {
    print(failure.message);
    return static_cast<int>(failure.code);
  }
  const std::string call = world.calls().describe();
  print(fmt::format("{}{}{}: {}{}{}", world.name(), place.empty() ? "" : ", ", place, failure.message,
                    call.empty() ? "" : "; ", call));
  world.abort(static_cast<int>(failure.code));
}

}  // namespace wuneng::trainer
