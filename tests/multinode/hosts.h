// Several hosts on this machine: network namespaces with names of their own and TCP between them (hosts.sh).
#pragma once

#include <string>
#include <vector>

namespace wuneng::tests {

// Hosts h1, h2 ... for the life of the object. Where namespaces are refused, `refusal()` says why and nothing
// else may be called.
class Hosts {
 public:
  explicit Hosts(int count);
  ~Hosts();
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  const std::string& refusal() const { return refusal_; }

  // The command, to be started on a host.
  std::vector<std::string> on(const std::string& host, const std::vector<std::string>& command) const;
  // scripts/launch/mpirun.sh on h1, with `slots` processes on each host; `folder` is for its file of hosts.
  std::vector<std::string> launch(int slots, const std::string& folder,
                                  const std::vector<std::string>& arguments) const;
  void cut(const std::string& host) const;  // its network goes down

 private:
  int count_;
  std::string lab_, refusal_;
};

}  // namespace wuneng::tests
