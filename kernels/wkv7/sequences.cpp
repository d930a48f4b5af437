#include "kernels/wkv7/sequences.h"

namespace wuneng::kernels {

std::vector<Wkv7Sequence> wkv7_sequences(std::int64_t B, std::int64_t T, std::span<const std::int64_t> starts,
                                         bool states_per_document) {
  std::vector<Wkv7Sequence> sequences;
  std::size_t next = 0;  // the first of `starts` not yet used
  for (std::int64_t row = 0; row < B; ++row) {
    const std::int64_t row_end = (row + 1) * T;
    for (std::int64_t begin = row * T; begin < row_end;) {
      const bool row_begin = begin == row * T;
      const bool document = next < starts.size() && starts[next] == begin;
      if (document) ++next;
      const std::int64_t end = next < starts.size() && starts[next] < row_end ? starts[next] : row_end;
      Wkv7Sequence s{begin, end - begin, -1, -1};
      if (states_per_document) {
        s.initial = s.final = static_cast<std::int64_t>(sequences.size());
      } else {
        if (row_begin && !document) s.initial = row;
        if (end == row_end) s.final = row;
      }
      if (!sequences.empty()) s.kept = sequences.back().kept + wkv7_kept_states(sequences.back().length);
      sequences.push_back(s);
      begin = end;
    }
  }
  return sequences;
}

}  // namespace wuneng::kernels
