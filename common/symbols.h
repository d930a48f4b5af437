// Names of functions by their address.
#pragma once

#include <string>

namespace wuneng {

// "wuneng::trainer::train(...) + 0x1f4 (wuneng 0x83a14)"; the name is left out when nothing knows it. Also
// finds functions that are local to their file, which dladdr alone does not.
std::string symbol_at(const void* address);

}  // namespace wuneng
