#include "model/boundary_states.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <array>

#include "kernels/wkv7/wkv7.h"

namespace wuneng::model {
namespace {

constexpr std::int64_t chunk = 64;  // tokens

using Inputs = std::array<at::Tensor, 6>;  // of wkv7(), in its order: r, log_decay, k, v, a, b

// A document of some rows, all of which stand at the same place in it.
struct Document {
  std::int64_t place = 0;  // tokens read
  at::Tensor state;        // [R, H, N, N]; undefined before the first token
  BoundaryMemory memory;   // as many boundaries as there were, or more
};

// What r [R, L, H, N] reads of the `count` newest boundary states.
at::Tensor read_boundaries(const at::Tensor& r, const BoundaryMemory& memory, std::int64_t count) {
  const at::Tensor states = memory.states.narrow(1, 0, count);  // [R, n, H, N, N]
  const at::Tensor keys = memory.keys.narrow(1, 0, count);      // [R, n, H, N]
  const at::Tensor queries = r.to(states.scalar_type()).transpose(1, 2);
  const at::Tensor scores = queries.matmul(keys.permute({0, 2, 3, 1}));  // [R, H, L, n]
  const at::Tensor null = at::zeros_like(scores.narrow(-1, 0, 1));
  const at::Tensor weights = at::softmax(at::cat({scores, null}, -1), -1).narrow(-1, 0, count);
  const at::Tensor reads = queries.unsqueeze(1).matmul(states.transpose(-1, -2));  // [R, n, H, L, N]
  return reads.mul(weights.permute({0, 3, 1, 2}).unsqueeze(-1)).sum(1).transpose(1, 2);
}

// Puts the newest first and forgets what is beyond `count`.
at::Tensor pushed(const at::Tensor& newest, const at::Tensor& others, std::int64_t count) {
  const at::Tensor first = newest.unsqueeze(1);
  if (!others.defined() || count == 1) return first;
  return at::cat({first, others.narrow(1, 0, std::min(others.size(1), count - 1))}, 1);
}

// Tokens of each piece: up to the end of the chunk, whole chunks, the rest.
std::vector<std::int64_t> pieces(std::int64_t place, std::int64_t length) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t done = 0; done < length; done += sizes.back())
    sizes.push_back(std::min(length - done, chunk - (place + done) % chunk));
  return sizes;
}

// Reads the document's next tokens, chunk by chunk. [R, L, H, N].
at::Tensor read_on(Document& document, const Inputs& inputs, std::int64_t count) {
  const std::vector<std::int64_t> sizes = pieces(document.place, inputs[0].size(1));
  std::array<std::vector<at::Tensor>, 6> cut;
  for (std::size_t i = 0; i < inputs.size(); ++i) cut[i] = inputs[i].split_with_sizes(sizes, 1);
  BoundaryMemory& memory = document.memory;
  std::vector<at::Tensor> outputs;
  for (std::size_t p = 0; p < sizes.size(); ++p) {
    const auto part = [&](std::size_t input) { return cut[input][p].contiguous(); };
    const at::Tensor r = part(0), k = part(2);
    const kernels::Wkv7Output out = kernels::wkv7(r, part(1), k, part(3), part(4), part(5), document.state);
    const std::int64_t readable = std::min(count, document.place / chunk);
    outputs.push_back(
        readable == 0 ? out.y : out.y.add(read_boundaries(r, memory, readable).to(out.y.scalar_type())));
    document.state = out.final_state;
    document.place += sizes[p];
    const at::Tensor keys = k.sum(1, /*keepdim=*/false, out.final_state.scalar_type());
    memory.key_sum = memory.key_sum.defined() ? memory.key_sum.add(keys) : keys;
    if (document.place % chunk != 0) continue;
    memory.states = pushed(document.state, memory.states, count);
    memory.keys = pushed(memory.key_sum.div(chunk), memory.keys, count);
    memory.key_sum = at::Tensor();
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 1);
}

// Boundary states or their keys as they are carried: `count` of them, those that were never reached zero.
at::Tensor filled(const at::Tensor& boundaries, const at::Tensor& like, std::int64_t count) {
  std::vector<std::int64_t> missing = like.sizes().vec();  // [R, ...]
  const std::int64_t there = boundaries.defined() ? boundaries.size(1) : 0;
  missing.insert(missing.begin() + 1, count - there);
  const at::Tensor zeros = at::zeros(missing, like.options());
  return there == 0 ? zeros : at::cat({boundaries, zeros}, 1);
}

BoundaryMemory carried(const Document& document, std::int64_t count) {
  const BoundaryMemory& memory = document.memory;
  const at::Tensor no_keys = at::zeros_like(document.state.select(-1, 0));
  return {filled(memory.states, document.state, count), filled(memory.keys, no_keys, count),
          memory.key_sum.defined() ? memory.key_sum : no_keys};
}

at::Tensor rows_of(const at::Tensor& x, std::int64_t row, std::int64_t rows) {
  return x.defined() ? x.narrow(0, row, rows) : x;
}

// The document that `rows` rows from `row` on are in, as their earlier tokens left it.
Document begun(std::int64_t place, std::int64_t row, std::int64_t rows, const at::Tensor& state,
               const BoundaryMemory& memory) {
  if (place == 0) return {};
  return {place,
          rows_of(state, row, rows),
          {rows_of(memory.states, row, rows), rows_of(memory.keys, row, rows),
           rows_of(memory.key_sum, row, rows)}};
}

}  // namespace

BoundaryRead read_with_boundaries(std::int64_t count, const at::Tensor& r, const kernels::StateHeadInputs& in,
                                  const at::Tensor& v, const Documents& documents,
                                  const at::Tensor& initial_state, const BoundaryMemory& memory) {
  const Inputs inputs{r, in.log_decay, in.k, v, in.a, in.b};
  const std::int64_t T = r.size(1), rows = documents.uniform() ? r.size(0) : 1;  // rows of each stretch
  std::vector<at::Tensor> outputs, parts, final_states;
  std::array<std::vector<at::Tensor>, 3> memories;
  for (const Documents::Stretch& stretch : documents.stretches()) {
    if (stretch.row > 0 && documents.uniform()) break;  // the first one stood for all
    Document document =
        begun(documents.position() + stretch.first - stretch.begin, stretch.row, rows, initial_state, memory);
    Inputs tokens;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      tokens[i] =
          inputs[i].narrow(0, stretch.row, rows).narrow(1, stretch.first, stretch.last - stretch.first);
    parts.push_back(read_on(document, tokens, count));
    if (stretch.last < T) continue;
    outputs.push_back(parts.size() == 1 ? parts[0] : at::cat(parts, 1));
    parts.clear();
    final_states.push_back(document.state);
    const BoundaryMemory kept = carried(document, count);
    memories[0].push_back(kept.states);
    memories[1].push_back(kept.keys);
    memories[2].push_back(kept.key_sum);
  }
  return {at::cat(outputs, 0),
          at::cat(final_states, 0),
          {at::cat(memories[0], 0), at::cat(memories[1], 0), at::cat(memories[2], 0)}};
}

}  // namespace wuneng::model
