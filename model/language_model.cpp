#include "model/language_model.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>

#include <cmath>

#include "common/check.h"

namespace wuneng::model {
namespace {

// As large as what a block adds (the standard deviation of output projections, mixer.cpp): a far smaller
// stream is drowned by its first block, and attention then does not learn to look up what it has seen. Where
// the head shares the weights, rows of length one, which give logits of size one.
parallel::Initializer stream_init(const ModelConfig& config) {
  const std::int64_t parts = config.tied_head ? config.width : 2 * config.layers;
  return init::normal(1.0 / std::sqrt(static_cast<double>(parts)));
}

parallel::Initializer embedding_init(const ModelConfig& config) {
  return config.init == InitKind::rwkv ? init::uniform(1e-4)
                                       : stream_init(config);  // its embedding norm scales
}

parallel::Initializer head_init(const ModelConfig& config) {
  if (config.init == InitKind::normal) return init::normal(0.02);
  const double ratio = static_cast<double>(config.vocab_size) / static_cast<double>(config.width);
  return init::orthogonal(0.5 * std::sqrt(std::max(1.0, ratio)));
}

}  // namespace

LanguageModel::LanguageModel(const ModelConfig& config, parallel::Communicator& tensor_group,
                             std::uint64_t seed, parallel::Building options)
    : config_(config), whole_(tensor_group, false), training_(tensor_group, options.sequence) {
  check(config);
  const parallel::LayerBuilder builder(parameters_, tensor_group, seed, options);
  embedding_ = builder.vocabulary_rows("embedding", config.vocab_size, config.width, embedding_init(config));
  if (config.learned_positions > 0)
    positions_ = builder.replicated("positions", {config.learned_positions, config.width},
                                    stream_init(config), parallel::Used::in_stream);
  if (config.embedding_norm) embedding_norm_.emplace(config, builder.in("embedding_norm"));
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const parallel::LayerBuilder layer = builder.in(fmt::format("layers.{}", l));
    const init::Depth depth{l, config.layers};
    layers_.push_back({Norm(config, layer.in("mixer_norm")), Mixer(config, depth, layer),
                       Norm(config, layer.in("ffn_norm")), FeedForward(config, depth, layer.in("ffn")), 0});
    layers_.back().parameters_end = parameters_.size();
  }
  final_norm_.emplace(config, builder.in("final_norm"));
  head_ = config.tied_head
              ? embedding_
              : builder.vocabulary_rows("head", config.vocab_size, config.width, head_init(config));
}

parallel::Parameters LanguageModel::parameter_shapes(const ModelConfig& config) {
  const auto alone = parallel::make_single();
  return LanguageModel(config, *alone, 0, {.shapes_only = true}).parameters_;
}

std::int64_t LanguageModel::parameter_count() const {
  std::int64_t count = 0;
  for (const parallel::Parameter& parameter : parameters_)
    count += c10::multiply_integers(parameter.global_shape);
  return count;
}

at::Tensor LanguageModel::hidden(const at::Tensor& tokens, const at::Tensor& document_starts,
                                 ModelState* state) const {
  WN_CHECK(!(training_.in_parts() && at::GradMode::is_enabled()),
           "hidden: not differentiable with sequence parallelism");
  return run(tokens, whole_, document_starts, state);
}

at::Tensor LanguageModel::run(const at::Tensor& tokens, const parallel::Stream& stream,
                              const at::Tensor& document_starts, ModelState* state) const {
  stream.check_length(tokens.size(1));
  if (state && state->layers.empty()) state->layers.resize(layers_.size());
  const Documents documents(tokens.size(0), tokens.size(1), document_starts, state ? state->position : 0,
                            state ? state->document_begin : std::vector<std::int64_t>());
  await(layers_.front().parameters_end);
  at::Tensor h = parallel::embed(embedding_, tokens.to(device()), stream);  // [B, T, C]
  if (positions_.defined()) h = h.add(learned_positions(documents, stream));
  if (embedding_norm_) h = (*embedding_norm_)(h);
  at::Tensor first_values;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    await(layer.parameters_end);
    LayerState* layer_state = state ? &state->layers[l] : nullptr;
    h = h.add(layer.mixer(layer.mixer_norm(h), stream, documents, layer_state, first_values));
    h = h.add(layer.ffn(layer.ffn_norm(h), stream, documents, layer_state));
  }
  if (state) {
    state->position += tokens.size(1);
    state->document_begin = documents.last_begin();
  }
  await(parameters_.size());
  return (*final_norm_)(h);
}

at::Tensor LanguageModel::learned_positions(const Documents& documents,
                                            const parallel::Stream& stream) const {
  const at::Tensor places = documents.places();
  const std::int64_t longest = places.max().item<std::int64_t>() + 1;
  WN_REQUIRE(longest <= config_.learned_positions,
             "a text of {} tokens: model.learned_positions = {} is the longest that this model can read",
             longest, config_.learned_positions);
  return at::embedding(positions_, stream.here(places).to(device()));
}

at::Tensor LanguageModel::logits(const at::Tensor& hidden) const {
  return parallel::all_logits(head_, hidden);
}

kernels::LinearCrossEntropy LanguageModel::loss(const at::Tensor& tokens, const at::Tensor& targets,
                                                const at::Tensor& document_starts) const {
  const at::Tensor h = run(tokens, training_, document_starts, nullptr);
  return parallel::cross_entropy(head_, h, targets.flatten().to(device()), config_.penalties, training_);
}

}  // namespace wuneng::model
