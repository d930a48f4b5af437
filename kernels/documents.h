// The table of document starts that several operators take: int64 on the CPU [D], strictly increasing
// positions b*T + t; undefined or empty: none.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace wuneng::kernels {

// Throws Error with the value and its place when the table is not as above, for `tokens` = B*T positions.
void check_document_starts(const char* op, const at::Tensor& document_starts, std::int64_t tokens);

// One flag per position, or empty when no document starts.
std::vector<bool> start_flags(const at::Tensor& document_starts, std::int64_t tokens);

}  // namespace wuneng::kernels
