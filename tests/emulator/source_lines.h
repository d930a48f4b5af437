// Return addresses as source lines. Internal to the emulator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wuneng::emulator {

// Counted from where the program is loaded; 0 for null.
std::uint32_t program_offset(const void* return_address);
// "function at file:line", for each offset; "?" for 0. Starts addr2line once.
std::vector<std::string> source_lines(const std::vector<std::uint32_t>& offsets);

}  // namespace wuneng::emulator
