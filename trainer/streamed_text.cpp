#include "trainer/streamed_text.h"

#include <algorithm>

namespace wuneng::trainer {

bool StreamedText::add(std::string_view bytes) {
  held_ += bytes;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  const std::size_t length = first != std::string::npos ? first : safe_length();
  emit_(std::string_view(held_).substr(0, length));
  held_.erase(0, length);
  if (first != std::string::npos) held_.clear();
  return first != std::string::npos;
}

void StreamedText::finish() {
  emit_(held_);
  held_.clear();
}

std::size_t StreamedText::safe_length() const {
  for (std::size_t from = 0; from < held_.size(); ++from) {
    const std::string_view end = std::string_view(held_).substr(from);
    if (std::any_of(stops_.begin(), stops_.end(),
                    [&](const std::string& stop) { return stop.starts_with(end); }))
      return from;
  }
  return held_.size();
}

}  // namespace wuneng::trainer
