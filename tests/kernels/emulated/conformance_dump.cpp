// Writes the emulator's words of the conformance kernel, in hexadecimal, one row of 64 threads a line:
//   conformance_dump FILE
// scripts/gpu_check.sh compares a GPU's words with them.
#include <cstdio>

#include "tests/kernels/emulated/conformance_run.h"

int main(int argc, char** argv) {
  std::FILE* file = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
  if (file == nullptr)
    return std::fprintf(stderr, "usage: conformance_dump FILE (which must be writable)\n"), 2;
  const auto words = wuneng::emulated_conformance(1);
  for (std::size_t i = 0; i < words.size(); ++i)
    std::fprintf(file, "%08x%c", words[i], (i + 1) % wuneng::device::conformance_threads == 0 ? '\n' : ' ');
  return std::fclose(file) == 0 ? 0 : 1;
}
