// The language model: embedding, layers of mixer and feed-forward, norm, output head.
//
//   h = embedding(tokens);  for each layer: h += mixer(norm(h)); h += feed_forward(norm(h));  logits =
//   head(norm(h))
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/linear_cross_entropy.h"
#include "model/config.h"
#include "model/feed_forward.h"
#include "model/mixer.h"
#include "model/norm.h"
#include "model/state.h"
#include "parallel/layers.h"
#include "parallel/parameters.h"

namespace wuneng::model {

class LanguageModel {
 public:
  // Makes and initialises this rank's share of the parameters from `seed`. With options.sequence the loss
  // keeps the residual stream in parts over the tensor group, which must divide its tokens.
  LanguageModel(const ModelConfig& config, parallel::Communicator& tensor_group, std::uint64_t seed,
                parallel::Building options = {});

  // The parameters of a model without their values, which take no memory: a model of any size can be counted.
  static parallel::Parameters parameter_shapes(const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  at::Device device() const {
    return embedding_.weight.device();
  }  // of the parameters, and of what it returns
  const parallel::Parameters& parameters() const { return parameters_; }
  std::int64_t parameter_count() const;  // of the whole model

  // Called before parameters are read, with how many of parameters() must be there, counted from the first:
  // training waits here for those that are still on their way from other ranks.
  using Await = std::function<void(std::size_t parameters)>;
  void set_await(Await await) { await_ = std::move(await); }

  // tokens [B, T] int64, on any device -> the last norm's output [B, T, C]. `document_starts` as in
  // data::Batch, may be undefined. With a state the tokens continue those seen before, and the state is
  // brought up to date. Never in parts, whatever T; where the loss is, not differentiable.
  at::Tensor hidden(const at::Tensor& tokens, const at::Tensor& document_starts = {},
                    ModelState* state = nullptr) const;

  // hidden [..., C] -> logits [..., V]. Over several ranks not differentiable.
  at::Tensor logits(const at::Tensor& hidden) const;

  // losses [B * T]: of every token, in nats; zero where the target is -1. objective: their sum, with the
  // configured penalties, which training differentiates.
  kernels::LinearCrossEntropy loss(const at::Tensor& tokens, const at::Tensor& targets,
                                   const at::Tensor& document_starts = {}) const;

 private:
  struct Layer {
    Norm mixer_norm;
    Mixer mixer;
    Norm ffn_norm;
    FeedForward ffn;
    std::size_t parameters_end;  // of parameters(), those up to this layer's
  };

  at::Tensor run(const at::Tensor& tokens, const parallel::Stream& stream, const at::Tensor& document_starts,
                 ModelState* state) const;  // -> the stream [B, T, C] after the last norm
  void await(std::size_t parameters) const {
    if (await_) await_(parameters);
  }
  at::Tensor learned_positions(const Documents& documents, const parallel::Stream& stream) const;

  ModelConfig config_;
  parallel::Stream whole_, training_;
  parallel::Parameters parameters_;
  parallel::VocabularyRows embedding_;
  at::Tensor positions_;  // [longest text, C]; undefined: none
  std::optional<Norm> embedding_norm_, final_norm_;
  std::vector<Layer> layers_;
  Await await_;
  parallel::VocabularyRows head_;
};

}  // namespace wuneng::model
