#include "kernels/documents.h"

#include "common/check.h"

namespace wuneng::kernels {

void check_document_starts(const char* op, const at::Tensor& document_starts, std::int64_t tokens) {
  if (!document_starts.defined()) return;
  WN_CHECK(document_starts.scalar_type() == at::kLong && document_starts.device().is_cpu() &&
               document_starts.dim() == 1 && document_starts.is_contiguous(),
           "{}: document_starts is {} of {} dimensions on {}, expected contiguous int64 [D] on the CPU", op,
           c10::toString(document_starts.scalar_type()), document_starts.dim(),
           document_starts.device().str());
  const auto* start = document_starts.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < document_starts.numel(); ++i) {
    WN_CHECK(start[i] >= 0 && start[i] < tokens, "{}: document_starts[{}] = {} is outside 0 .. {}", op, i,
             start[i], tokens - 1);
    WN_CHECK(i == 0 || start[i] > start[i - 1], "{}: document_starts[{}] = {} does not increase (after {})",
             op, i, start[i], start[i - 1]);
  }
}

std::vector<bool> start_flags(const at::Tensor& document_starts, std::int64_t tokens) {
  if (!document_starts.defined() || document_starts.numel() == 0) return {};
  std::vector<bool> flags(static_cast<std::size_t>(tokens));
  const auto* start = document_starts.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < document_starts.numel(); ++i) flags[static_cast<std::size_t>(start[i])] = true;
  return flags;
}

}  // namespace wuneng::kernels
