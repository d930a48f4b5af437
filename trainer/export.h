// A trained model in the formats of other programs.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/saved_model.h"

namespace wuneng::trainer {

// Format names: "safetensors" (every model, our own names: one file), "llama" (plain Transformers: a folder
// that transformers' LlamaForCausalLM loads), "gpt2" (GPT-2's shapes: a folder for its GPT2LMHeadModel) and
// "rwkv" (plain RWKV-7: a .pth file with the official names, for the rwkv package). Throws UsageError naming
// the format's limit and the setting that breaks it when the format cannot hold the model.
void export_model(const SavedModel& saved, const std::string& format, const std::filesystem::path& out);

}  // namespace wuneng::trainer
