// The constructors that task.cpp's table names.
#pragma once

#include <memory>

#include "data/tasks/task.h"

namespace wuneng::data {

std::unique_ptr<Task> make_mqar(const DataConfig& data);
std::unique_ptr<Task> make_a5(const DataConfig& data);
std::unique_ptr<Task> make_s5(const DataConfig& data);
std::unique_ptr<Task> make_parity(const DataConfig& data);
std::unique_ptr<Task> make_selective_copy(const DataConfig& data);
std::unique_ptr<Task> make_state_recall(const DataConfig& data);
std::unique_ptr<Task> make_needle(const DataConfig& data);

}  // namespace wuneng::data
