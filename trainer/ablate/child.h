// A process that an ablation starts.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace wuneng::trainer::ablate {

// The cores that this process may use in `groups` equal, contiguous shares. Throws UsageError when there are
// fewer cores than groups.
std::vector<std::vector<int>> share_cores(std::int64_t groups);

struct ChildExit {
  int code = 0;                 // exit code, or 128 + n when signal n ended it
  std::int64_t peak_bytes = 0;  // resident memory of the largest process below it
};

// Runs in a process group of its own, so that a terminal's Ctrl-C reaches only the ablation, which then asks
// its children to save. When the ablation dies, the system ends the child.
class Child {
 public:
  // `command[0]` is found like a shell finds it. Output is appended to the file; `cores` empty: all. What a
  // launcher told this process about itself is kept from the child, which is not a rank of that job.
  Child(const std::vector<std::string>& command, const std::filesystem::path& output,
        const std::vector<int>& cores);
  ~Child();  // kills it if it still runs
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;

  std::optional<ChildExit> ended();  // does not wait
  void signal(int number) const;

 private:
  pid_t pid_ = -1;
};

}  // namespace wuneng::trainer::ablate
