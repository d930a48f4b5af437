#include "tests/support/tiny_run.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/file.h"
#include "common/hash.h"
#include "common/json.h"

namespace wuneng::tests {

TinyRun::TinyRun() : corpus((scratch / "corpus").string()) {
  // Three documents of made-up words: enough for sequences that hold a document's start.
  const char* syllables[] = {"ba", "do", "ki", "lu", "me", "no", "ra", "su", "ti", "ve"};
  std::vector<std::string> command{"tokenize", "--output", corpus};
  for (int document = 0; document < 3; ++document) {
    std::string text;
    for (std::uint64_t i = 0; i < 1500; ++i) {
      const std::uint64_t bits = mix_bits(i * 31 + static_cast<std::uint64_t>(document));
      text += std::string(syllables[bits % 10]) + (bits % 7 < 3 ? " " : syllables[bits / 10 % 3]);
    }
    const auto file = scratch / fmt::format("text{}", document);
    write_file_atomically(file, text);
    command.push_back(file.string());
  }
  const Finished done = run(program(command));
  EXPECT_EQ(done.exit_code, 0) << done.out;
}

std::vector<std::string> TinyRun::train(const std::string& name,
                                        const std::vector<std::string>& overrides) const {
  std::vector<std::string> command{
      "train",    std::string(std::getenv("WUNENG_SOURCE")) + "/configs/tiny.yaml",
      "--output", (scratch / name).string(),
      "--set",    "data.train=" + corpus};
  for (const std::string& override : overrides) command.insert(command.end(), {"--set", override});
  return command;
}

std::string TinyRun::tensors(const std::string& name) const {
  const Finished done = run(program({"inspect", (scratch / name).string(), "--json", "--verify"}));
  EXPECT_EQ(done.exit_code, 0) << done.out;
  const Json checkpoint = Json::parse(done.out, nullptr, false);
  EXPECT_TRUE(checkpoint.is_object()) << done.out;
  std::string text = fmt::format("step {} samples {} tokens {}\n", checkpoint["step"].dump(),
                                 checkpoint["samples"].dump(), checkpoint["tokens"].dump());
  for (const Json& tensor : checkpoint["tensors"])
    text += tensor["name"].get<std::string>() + " " + tensor["xxh3"].get<std::string>() + "\n";
  return text;
}

std::string TinyRun::metrics(const std::string& name) const {
  const std::string text = read_text((scratch / name) / "metrics.jsonl");
  std::string kept;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    Json line = Json::parse(text.substr(begin, end - begin));
    line.erase("tokens_per_second");
    line.erase("step_seconds");
    kept += line.dump() + "\n";
  }
  return kept;
}

std::vector<double> TinyRun::curve(const std::string& name) const {
  std::vector<double> found;
  std::istringstream lines(metrics(name));
  for (std::string line; std::getline(lines, line);) {
    const Json entry = Json::parse(line);
    for (const char* key : {"loss", "validation_loss", "grad_norm"})
      if (entry.contains(key)) found.push_back(entry[key].get<double>());
  }
  return found;
}

}  // namespace wuneng::tests
