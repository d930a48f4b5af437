#include "trainer/export.h"

#include "trainer/formats/format.h"

namespace wuneng::trainer {

void export_model(const SavedModel& saved, const std::string& format_name, const std::filesystem::path& out) {
  const Format& format = format_named(format_name);
  format.check(saved.config);
  NamedTensors ours;
  for (const parallel::Parameter& parameter : saved.model.parameters())
    ours.emplace_back(parameter.name, parameter.value.detach());
  TensorPairs pairs(ours);
  format.pair(saved.config.model, pairs);
  format.write(saved, pairs.to_theirs(), out);
}

}  // namespace wuneng::trainer
