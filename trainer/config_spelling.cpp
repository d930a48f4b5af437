#include "trainer/config_spelling.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "trainer/config_keys.h"

namespace wuneng::trainer {
namespace {

// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string
// alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> distance(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        distance[i][j] = i + j;
        continue;
      }
      const std::size_t replaced = distance[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      distance[i][j] = std::min({distance[i - 1][j] + 1, distance[i][j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) distance[i][j] = std::min(distance[i][j], distance[i - 2][j - 2] + 1);
    }
  }
  return distance[a.size()][b.size()];
}

std::vector<std::string_view> known_paths(NameKind kind) {
  std::vector<std::string_view> paths;
  for (const Key& key : config_keys()) {
    if (kind == NameKind::key) {
      paths.push_back(key.path);
      continue;
    }
    for (auto section = section_of(key.path); !section.empty(); section = section_of(section)) {
      if (std::ranges::find(paths, section) == paths.end()) paths.push_back(section);
    }
  }
  return paths;
}

constexpr std::size_t unlike = std::numeric_limits<std::size_t>::max();

// Small for a typing error anywhere in the path, a little larger for the right name in the wrong section.
std::size_t score(std::string_view path, std::string_view candidate) {
  const std::string_view name = last_part(path);
  std::size_t best = unlike;
  const std::size_t whole = edit_distance(path, candidate);
  if (whole <= 1 + name.size() / 4) best = whole;
  const std::size_t last = edit_distance(name, last_part(candidate));
  if (last <= name.size() / 5) best = std::min(best, last + 2);
  return best;
}

std::string known_names(std::string_view path) {
  std::string_view section = section_of(path);
  while (!is_section(section)) section = section_of(section);
  const std::string place = section.empty() ? "at the top" : fmt::format("in {}", section);
  return fmt::format("known {}: {}", place, fmt::join(names_in(section), ", "));
}

}  // namespace

std::string spelling_hint(std::string_view path, NameKind kind) {
  std::size_t best = unlike;
  std::vector<std::string_view> nearest;
  for (const std::string_view candidate : known_paths(kind)) {
    const std::size_t distance = score(path, candidate);
    if (distance < best) nearest.clear();
    best = std::min(best, distance);
    if (distance == best && distance != unlike) nearest.push_back(candidate);
  }
  if (nearest.empty()) return known_names(path);
  return fmt::format("did you mean {}?", fmt::join(nearest, " or "));
}

std::string spelling_hint(std::string_view name, const std::vector<std::string_view>& known) {
  std::size_t best = 1 + name.size() / 4;  // further away is another word
  std::string_view nearest;
  for (const std::string_view candidate : known) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance > best || (distance == best && !nearest.empty())) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest.empty() ? fmt::format("known: {}", fmt::join(known, ", "))
                         : fmt::format("did you mean {}?", nearest);
}

}  // namespace wuneng::trainer
