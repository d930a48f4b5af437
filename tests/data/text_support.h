// Texts that tokenizers find hard.
#pragma once

#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng::tests {

inline std::string random_text(std::mt19937& random, std::size_t length, std::string_view alphabet) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += alphabet[random() % alphabet.size()];
  return text;
}

inline std::string every_byte() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  return bytes;
}

// All bytes, bytes with many repeats, and single cases: NULs, broken UTF-8, lone and final spaces.
inline std::vector<std::string> hard_texts() {
  using namespace std::string_literals;
  std::vector<std::string> texts{"",
                                 " ",
                                 "   ",
                                 "\n",
                                 "\0"s,
                                 "a\0b\0\0c"s,
                                 "\xff\xfe",
                                 "\xc3",
                                 "\xe2\x82",
                                 "\xf0\x9f\x98 x",
                                 "caf\xc3\xa9 \xf0\x9f\x98\x80!",
                                 " leading",
                                 "trailing  ",
                                 "\r\n \r\n",
                                 "tab\tand  two   three",
                                 "a1b2 c3,d4",
                                 every_byte()};
  std::mt19937 random(7);
  for (const std::string& alphabet : {every_byte(), "ab"s, "ab 1.\n"s, "a \n\0\xc3"s, "    x\n"s})
    for (const std::size_t length : {2, 17, 300}) texts.push_back(random_text(random, length, alphabet));
  return texts;
}

}  // namespace wuneng::tests
