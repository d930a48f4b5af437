#include "tests/multinode/hosts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/support/process.h"

namespace wuneng::tests {
namespace {

std::string script() { return source("tests/multinode/hosts.sh"); }

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace

Hosts::Hosts(int count)
    : count_(count), lab_("wn" + std::to_string(::getpid()) + "x" + std::to_string(count)) {
  if (::getuid() != 0) {
    refusal_ = "network namespaces need root";
    return;
  }
  const Finished up = run({script(), "up", lab_, std::to_string(count)});
  if (up.exit_code != 0) refusal_ = "network namespaces are refused here: " + up.out;
}

Hosts::~Hosts() { run({script(), "down", lab_}); }

std::vector<std::string> Hosts::on(const std::string& host, const std::vector<std::string>& command) const {
  std::string line = "exec ";  // signals to it reach the command itself
  for (const std::string& word : command) line += quoted(word) + " ";
  return {script(), "on", lab_, host, line};
}

std::vector<std::string> Hosts::launch(int slots, const std::string& folder,
                                       const std::vector<std::string>& arguments) const {
  const std::string file = folder + "/hostfile";
  std::ofstream stream(file);
  for (int host = 1; host <= count_; ++host) stream << "h" << host << " slots=" << slots << "\n";
  std::vector<std::string> command{"env", "NETWORK=10.77.0.0/24", "OMPI_MCA_plm=rsh",
                                   "OMPI_MCA_plm_rsh_agent=" + script() + " on " + lab_,
                                   // A lost host is noticed in 4 seconds instead of 25; a hanging test ends.
                                   "OMPI_MCA_oob_tcp_keepalive_time=2", "OMPI_MCA_oob_tcp_keepalive_intvl=1",
                                   "OMPI_MCA_oob_tcp_keepalive_probes=2", "MPIRUN_FLAGS=--timeout 120",
                                   source("scripts/launch/mpirun.sh"), file};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return on("h1", command);
}

void Hosts::cut(const std::string& host) const {
  const Finished done = run({script(), "link", lab_, host, "down"});
  EXPECT_EQ(done.exit_code, 0) << done.out;
}

}  // namespace wuneng::tests
