// many_runs FILE: trains as the program does, one run after the other in the same processes. A line of FILE
// is a run: its folder, its configuration and overrides of keys, between tabs.
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "trainer/agreement.h"
#include "trainer/train.h"

int main(int argc, char** argv) {
  using namespace wuneng;
  if (argc != 2) return 2;
  parallel::World world;
  trainer::Activity activity;
  const auto train_all = [&] {
    std::ifstream list(argv[1]);
    for (std::string line; std::getline(list, line);) {
      std::istringstream words(line);
      std::vector<std::string> fields;
      for (std::string field; std::getline(words, field, '\t');) fields.push_back(field);
      trainer::TrainOptions options;
      options.output = fields.at(0);
      trainer::train(trainer::load_config(fields.at(1), {fields.begin() + 2, fields.end()}), options, world,
                     activity);
    }
    return ExitCode::done;
  };
  return trainer::run_guarded(world, train_all, [&] { return activity.describe(); });
}
