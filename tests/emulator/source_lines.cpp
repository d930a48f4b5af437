#include "tests/emulator/source_lines.h"

#include <elf.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <sstream>

extern "C" const char __executable_start[];  // from the linker

namespace wuneng::emulator {
namespace {

// Position-independent programs are linked at 0, others where they are loaded.
std::uintptr_t link_base() {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(__executable_start);
  return header->e_type == ET_DYN ? 0 : reinterpret_cast<std::uintptr_t>(__executable_start);
}

std::string own_path() {
  std::array<char, 4096> path{};
  const auto length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  return length > 0 ? std::string(path.data(), static_cast<std::size_t>(length)) : "";
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return text;
  std::array<char, 4096> part;
  while (const std::size_t n = std::fread(part.data(), 1, part.size(), pipe)) text.append(part.data(), n);
  pclose(pipe);
  return text;
}

}  // namespace

std::uint32_t program_offset(const void* return_address) {
  if (return_address == nullptr) return 0;
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(return_address) -
                                    reinterpret_cast<std::uintptr_t>(__executable_start));
}

std::vector<std::string> source_lines(const std::vector<std::uint32_t>& offsets) {
  std::vector<std::string> lines(offsets.size(), "?");
  if (offsets.empty()) return lines;
  std::ostringstream command;
  command << "addr2line -spfC -e '" << own_path() << "'" << std::hex;
  for (const std::uint32_t offset : offsets)  // one byte back: the call, not what follows it
    command << " 0x" << (offset == 0 ? 0 : offset + link_base() - 1);
  std::istringstream output(output_of(command.str() + " 2>/dev/null"));
  for (std::string& line : lines)
    if (!std::getline(output, line)) line = "?";
  return lines;
}

}  // namespace wuneng::emulator
