// Text as it is generated: handed on at once, except for an end that may become a stop string.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng::trainer {

class StreamedText {
 public:
  using Emit = std::function<void(std::string_view)>;

  // Stop strings must not be empty.
  StreamedText(std::vector<std::string> stops, Emit emit)
      : stops_(std::move(stops)), emit_(std::move(emit)) {}

  // Adds bytes. Returns true when a stop string is complete: what came before the first one has been handed
  // on, and nothing more may be added.
  bool add(std::string_view bytes);

  // Hands on what is still held back.
  void finish();

 private:
  std::size_t safe_length() const;  // of what no stop string can begin in

  std::vector<std::string> stops_;
  Emit emit_;
  std::string held_;
};

}  // namespace wuneng::trainer
