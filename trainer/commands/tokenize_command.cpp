#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "trainer/commands/commands.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string tokenizer = "bytes", output;
  std::vector<std::string> files;
  std::int64_t train = 0;
};

// Learns a tokenizer from all files together and writes it to --output.
void train_tokenizer(const Flags& flags) {
  std::string text;
  for (const std::string& file : flags.files) text += read_text(file);
  const auto tokenizer = data::train_bpe(text, flags.train);
  write_file_atomically(flags.output, tokenizer->to_json().dump() + "\n");
  fmt::print("{}: {} ids learnt from {} bytes\n", flags.output, tokenizer->vocab_size(), text.size());
}

void write_corpus(const Flags& flags) {
  const auto tokenizer = data::make_tokenizer(flags.tokenizer);
  data::TokenFileWriter writer(flags.output, tokenizer->vocab_size());
  std::size_t bytes = 0, tokens = 0;
  for (const std::string& file : flags.files) {
    const std::string text = read_text(file);
    std::vector<std::int32_t> ids = tokenizer->encode(text);
    ids.push_back(tokenizer->end_of_document());
    writer.add_document(ids);
    bytes += text.size();
    tokens += ids.size();
  }
  write_file_atomically(flags.output + ".tokenizer.json", tokenizer->to_json().dump() + "\n");
  writer.finish();
  fmt::print("{}: {} documents, {} bytes, {} tokens of a vocabulary of {} ({:.2f} bytes per token)\n",
             flags.output, flags.files.size(), bytes, tokens, tokenizer->vocab_size(),
             static_cast<double>(bytes) / static_cast<double>(tokens));
}

}  // namespace

Command add_tokenize(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app =
      program.add_subcommand("tokenize", "Turn text files into a corpus, or learn a tokenizer from them");
  app->add_option("FILE", flags->files, "Text files; each becomes one document")->required();
  app->add_option("--tokenizer", flags->tokenizer, "bytes, or a tokenizer's JSON file")
      ->type_name("NAME")
      ->capture_default_str();
  app->add_option("--output", flags->output,
                  "Writes OUTPUT.bin, .idx and .tokenizer.json; with --train, the tokenizer's JSON file")
      ->type_name("PREFIX")
      ->required();
  app->add_option("--train", flags->train, "Learn a byte-level BPE of this many ids from the files instead")
      ->type_name("SIZE")
      ->check(CLI::PositiveNumber);
  return {app, [flags](Invocation& invocation) {
            require_one_process(invocation, "tokenize");
            flags->train > 0 ? train_tokenizer(*flags) : write_corpus(*flags);
            return ExitCode::done;
          }};
}

}  // namespace wuneng::trainer
