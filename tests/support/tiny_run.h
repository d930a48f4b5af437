// A run of configs/tiny.yaml on a small text, through the program.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/scratch.h"

namespace wuneng::tests {

class TinyRun : public testing::Test {
 protected:
  TinyRun();

  // Arguments of `wuneng train` for the run folder scratch/`name`, with further overrides "key=value".
  std::vector<std::string> train(const std::string& name,
                                 const std::vector<std::string>& overrides = {}) const;
  // XXH3 of every tensor of a run's newest checkpoint, by name: equal texts mean equal bits.
  std::string tensors(const std::string& name) const;
  // metrics.jsonl without what a clock decides.
  std::string metrics(const std::string& name) const;

  // Every loss of a run, of training and validation, and every norm of the gradient.
  std::vector<double> curve(const std::string& name) const;

  Scratch scratch;
  std::string corpus;  // prefix of the tokenised text
};

}  // namespace wuneng::tests
