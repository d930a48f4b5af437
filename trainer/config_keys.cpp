#include "trainer/config_keys.h"

#include <algorithm>
#include <utility>

#include "data/tasks/task.h"

namespace wuneng::trainer {
namespace {

using model::Alpha;
using model::FeedForwardKind;
using model::FusionMode;
using model::InitKind;
using model::MiddleMode;
using model::NormKind;
using model::Positions;
using model::RopeScaling;
using model::StateKv;
using model::StateRead;
using model::StateValue;
using parallel::DeviceKind;
using parallel::Reduction;
using OnFailure = CheckpointConfig::OnFailure;
using Schedule = OptimizerConfig::Schedule;

template <class Enum>
ChoiceKind choice(Field<Enum> field, const std::vector<std::pair<std::string_view, Enum>>& choices) {
  std::vector<std::string_view> names;
  std::vector<Enum> values;
  for (const auto& [name, value] : choices) {
    names.push_back(name);
    values.push_back(value);
  }
  const auto read = [field, values](const Config& config) {
    return static_cast<std::size_t>(std::ranges::find(values, field.read(config)) - values.begin());
  };
  const auto write = [field, values](Config& config, std::size_t index) {
    field.write(config) = values[index];
  };
  return {std::move(names), read, write};
}

constexpr std::int64_t million = 1'000'000, billion = 1'000'000'000;
constexpr bool or_auto = true;

#define AT(field) \
  [](auto& config) -> auto& { return config.field; }

std::vector<Key> run_and_model_keys() {
  return {
      {"seed", IntegerKind{AT(seed), 0}, "", "seed of the initialisation and of the order of the data"},
      {"model.width", IntegerKind{AT(model.width), 1, million}, "channels",
       "C, width of the residual stream"},
      {"model.layers", IntegerKind{AT(model.layers), 1, 10'000}, "",
       "layers, each a mixer and a feed-forward"},
      {"model.vocab_size", IntegerKind{AT(model.vocab_size), 2, 100 * million}, "",
       "V, token ids; at least as many as the tokenizer has"},
      {"model.pattern", TextKind{AT(model.pattern)}, "",
       "one letter per layer, repeated: h both kinds of heads, a attention only, s state only"},
      {"model.norm", choice<NormKind>(AT(model.norm), {{"rms", NormKind::rms}, {"layer", NormKind::layer}}),
       "", "norm before each mixer, each feed-forward and the head"},
      {"model.norm_eps", RealKind{AT(model.norm_eps), 0.0, true}, "", "added to the variance inside a norm"},
      {"model.embedding_norm", FlagKind{AT(model.embedding_norm)}, "",
       "another norm right after the embedding, as in RWKV"},
      {"model.biases", FlagKind{AT(model.biases)}, "",
       "biases of the attention's and the feed-forward's matrices, as in GPT-2"},
      {"model.learned_positions", IntegerKind{AT(model.learned_positions), 0, billion}, "tokens",
       "longest text, with a learned vector for each position; 0: no such vectors"},
      {"model.z_loss", RealKind{AT(model.penalties.z_loss), 0.0}, "",
       "times the squared log-sum-exp of the logits, added to each token's loss; 0: off"},
      {"model.logit_pull", RealKind{AT(model.penalties.pull), 0.0}, "",
       "times max(logits)^2 / 2, added to each token's loss; RWKV-7: 1e-4; 0: off"},
      {"model.tied_head", FlagKind{AT(model.tied_head)}, "", "the output head shares the embedding's matrix"},
      {"model.init",
       choice<InitKind>(AT(model.init), {{"normal", InitKind::normal}, {"rwkv", InitKind::rwkv}}), "",
       "initialisation of embedding, attention, feed-forward and head; state heads always start as RWKV-7's"},
  };
}

std::vector<Key> head_keys() {
  return {
      {"model.attention.heads", IntegerKind{AT(model.attention.heads), 0, 10'000}, "",
       "softmax-attention heads of a layer; 0: none"},
      {"model.attention.kv_heads", IntegerKind{AT(model.attention.kv_heads), 1, 10'000, or_auto}, "",
       "heads of keys and values, shared by groups of heads; auto: one for each head"},
      {"model.attention.head_size", IntegerKind{AT(model.attention.head_size), 2, 4096}, "channels",
       "N of an attention head; even"},
      {"model.attention.positions",
       choice<Positions>(AT(model.attention.positions),
                         {{"rope", Positions::rope}, {"none", Positions::none}}),
       "", "rotary positions, or none but the causal mask"},
      {"model.attention.rope_base", RealKind{AT(model.attention.rope_base), 1.0}, "",
       "base of the rotary position angles"},
      {"model.attention.rope_scaling",
       choice<RopeScaling>(
           AT(model.attention.rope_scaling),
           {{"none", RopeScaling::none}, {"linear", RopeScaling::linear}, {"ntk", RopeScaling::ntk}}),
       "", "stretches rotary positions over longer texts: divides them, or raises the base (NTK)"},
      {"model.attention.rope_factor", RealKind{AT(model.attention.rope_factor), 1.0}, "",
       "by how much rope_scaling stretches"},
      {"model.attention.qk_norm", FlagKind{AT(model.attention.qk_norm)}, "",
       "RMS norm of each head's query and key"},
      {"model.attention.window", IntegerKind{AT(model.attention.window), 0, billion}, "tokens",
       "a token sees this many tokens, itself included; 0: all before it"},
      {"model.attention.global_every", IntegerKind{AT(model.attention.global_every), 0, 10'000}, "layers",
       "every n-th layer has no window; 0: none"},
      {"model.attention.softcap", RealKind{AT(model.attention.softcap), 0.0}, "",
       "scores s become softcap * tanh(s / softcap); 0: off"},
      {"model.state.heads", IntegerKind{AT(model.state.heads), 0, 10'000}, "",
       "RWKV-7 state heads of a layer; 0: none"},
      {"model.state.head_size", IntegerKind{AT(model.state.head_size), 0, 0, false, {64, 128}}, "channels",
       "N of a state head"},
      {"model.state.kv",
       choice<StateKv>(AT(model.state.kv), {{"own", StateKv::own}, {"shared", StateKv::shared}}), "",
       "keys and values of state heads: own projections, or the attention heads'"},
      {"model.state.value",
       choice<StateValue>(AT(model.state.value),
                          {{"input", StateValue::input}, {"attention", StateValue::attention}}),
       "", "values of state heads: from the layer's input, or with a share of the attention heads' output"},
      {"model.state.read",
       choice<StateRead>(AT(model.state.read), {{"single", StateRead::single}, {"double", StateRead::dual}}),
       "", "how often the state is read: S r, or S W (S r)"},
      {"model.state.boundary_states", IntegerKind{AT(model.state.boundary_states), 0, 64}, "states",
       "a token also reads the last so many states that stood at a multiple of 64 tokens of its document"},
      {"model.state.negative_eigenvalues", FlagKind{AT(model.state.negative_eigenvalues)}, "",
       "a state's transition can turn the sign of what it removes, as following swaps asks"},
      {"model.state.value_residual", FlagKind{AT(model.state.value_residual)}, "",
       "values are mixed with those of the first layer that has state heads"},
      {"model.state.decay_rank", IntegerKind{AT(model.state.decay_rank), 1, million, or_auto}, "channels",
       "rank of the decay's low-rank map; auto: RWKV-7's formula"},
      {"model.state.rate_rank", IntegerKind{AT(model.state.rate_rank), 1, million, or_auto}, "channels",
       "rank of the in-context learning rate's map; auto: RWKV-7's formula"},
      {"model.state.value_rank", IntegerKind{AT(model.state.value_rank), 1, million, or_auto}, "channels",
       "rank of the value residual's map; auto: RWKV-7's formula"},
      {"model.state.gate_rank", IntegerKind{AT(model.state.gate_rank), 1, million, or_auto}, "channels",
       "rank of the gate's map; auto: RWKV-7's formula"},
      {"model.fusion.mode",
       choice<FusionMode>(AT(model.fusion.mode), {{"concat", FusionMode::concat},
                                                  {"additive", FusionMode::additive},
                                                  {"gated", FusionMode::gated}}),
       "", "state heads join the attention heads before the output projection: beside, added, or by a gate"},
      {"model.fusion.alpha",
       choice<Alpha>(AT(model.fusion.alpha),
                     {{"fixed", Alpha::fixed}, {"layer", Alpha::layer}, {"head", Alpha::head}}),
       "", "scale of the state heads: fixed at 1, or learnable, one per layer or per head"},
      {"model.fusion.attention_norm", FlagKind{AT(model.fusion.attention_norm)}, "",
       "RMS norm of each attention head before the fusion"},
      {"model.middle.mode",
       choice<MiddleMode>(AT(model.middle.mode), {{"none", MiddleMode::none},
                                                  {"concat", MiddleMode::concat},
                                                  {"additive", MiddleMode::additive},
                                                  {"gated", MiddleMode::gated},
                                                  {"key", MiddleMode::key},
                                                  {"mixed", MiddleMode::mixed}}),
       "",
       "middle heads, each made of one attention and one state head; mixed: concat, additive, gated in turn"},
      {"model.middle.heads", IntegerKind{AT(model.middle.heads), 1, 10'000, or_auto}, "",
       "middle heads of a layer; auto: a quarter of the attention heads, at least one of each kind"},
      {"model.middle.norm", FlagKind{AT(model.middle.norm)}, "", "RMS norm of each middle head"},
      {"model.ffn.kind",
       choice<FeedForwardKind>(AT(model.feed_forward.kind), {{"swiglu", FeedForwardKind::swiglu},
                                                             {"gelu", FeedForwardKind::gelu},
                                                             {"relu2", FeedForwardKind::relu2},
                                                             {"rwkv", FeedForwardKind::rwkv}}),
       "", "feed-forward: gated SiLU, GELU, squared ReLU, or RWKV-7's channel mix (shifted, squared ReLU)"},
      {"model.ffn.hidden", IntegerKind{AT(model.feed_forward.hidden), 1, 100 * million, or_auto}, "channels",
       "auto: swiglu 8/3 of the width, up to a multiple of 64; others 4 times the width"},
  };
}

std::vector<Key> data_and_parallel_keys() {
  return {
      {"data.train", TextKind{AT(data.train)}, "", "training corpus: the prefix of PREFIX.bin and PREFIX.idx",
       Resume::free},
      {"data.validation", TextKind{AT(data.validation)}, "",
       "validation corpus: the prefix of its files; empty: no validation", Resume::free},
      {"data.sequence_length", IntegerKind{AT(data.sequence_length), 1, 10 * million}, "tokens",
       "T, length of a training sequence"},
      {"data.separate_documents", FlagKind{AT(data.separate_documents)}, "",
       "attention and states never cross the start of a document"},
      {"data.task.name", choice<data::TaskName>(AT(data.task.name), data::task_names()), "",
       "trains on a made-up task instead of a corpus (data/README.md); none: a corpus"},
      {"data.task.vocabulary", IntegerKind{AT(data.task.vocabulary), 2, million, or_auto}, "",
       "token ids of the task, at most model.vocab_size; auto: as published, mqar 8192, selective_copy 16; "
       "needle 64"},
      {"data.task.count", IntegerKind{AT(data.task.count), 1, million, or_auto}, "",
       "things to remember: pairs (mqar), payload tokens (selective_copy), bits (state_recall), tokens of "
       "the value (needle); auto: T/16, 16, (T-14)/4, 4. Of a5 and s5: how many of five things an element "
       "may move; "
       "auto: 5"},
      {"data.task.shortest", IntegerKind{AT(data.task.shortest), 1, million, or_auto}, "tokens",
       "training lengths are uniform from here to sequence_length (parity, a5, s5; mqar with fewer pairs, "
       "state_recall with fewer swaps); auto: parity from 3, a5 and s5 only T and 3, the others only T"},
      {"data.task.pause_tokens", IntegerKind{AT(data.task.pause_tokens), 0, 1000}, "tokens",
       "tokens that wait after each element (a5, s5), for as many more transitions of a state"},
      {"data.task.random_filler", FlagKind{AT(data.task.random_filler)}, "",
       "random tokens instead of zeros around the queries (mqar)"},
      {"data.task.train_samples", IntegerKind{AT(data.task.train_samples), 0, billion}, "",
       "different training examples, repeated every epoch in another order; 0: no example comes again"},
      {"data.task.test_samples", IntegerKind{AT(data.task.test_samples), 1, million}, "",
       "test examples of each length", Resume::free},
      {"data.task.test_lengths", TextKind{AT(data.task.test_lengths)}, "tokens",
       "lengths to test besides sequence_length, each LENGTH or LENGTH:COUNT: \"128, 256:64\""},
      {"parallel.data", IntegerKind{AT(parallel.data), 1, million, or_auto}, "",
       "processes that share the batch: a power of two that divides the micro-batches; auto: all there are",
       Resume::free},
      {"parallel.tensor", IntegerKind{AT(parallel.tensor), 1, million, or_auto}, "",
       "processes that share each layer; divides heads and feed-forward channels; auto: all that "
       "parallel.data "
       "leaves",
       Resume::free},
      {"parallel.device",
       choice<DeviceKind>(
           AT(parallel.device),
           {{"auto", DeviceKind::automatic}, {"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}}),
       "", "where to compute, in float32; auto: on a GPU where a host has one", Resume::free},
      {"parallel.share_gpus", FlagKind{AT(parallel.share_gpus)}, "",
       "a host may have more processes than GPUs, whose messages then go through its memory: for tests",
       Resume::free},
      {"parallel.sequence", FlagKind{AT(parallel.sequence)}, "",
       "the processes that share a layer split the tokens of norms and residuals between layers, which takes "
       "less memory; parallel.tensor must divide the sequence length",
       Resume::free},
      {"parallel.reduction",
       choice<Reduction>(AT(parallel.reduction), {{"tree", Reduction::tree}, {"fast", Reduction::fast}}), "",
       "order in which gradients are added: a fixed tree, with the same bits on any number of processes, or "
       "the "
       "library's own",
       Resume::free},
      {"parallel.check_calls", FlagKind{AT(parallel.check_calls)}, "",
       "before each collective the processes compare what they call, at the cost of another, small one: for "
       "finding faults in the program",
       Resume::free},
      {"parallel.shard_optimizer", FlagKind{AT(parallel.shard_optimizer)}, "",
       "each data-parallel process keeps and updates its share of the optimizer's state (ZeRO-1)",
       Resume::free},
  };
}

std::vector<Key> checkpoint_keys() {
  return {
      {"trainer.checkpoint.every", IntegerKind{AT(trainer.checkpoint.every), 0, billion}, "steps",
       "from one checkpoint to the next; 0: none for that; one is made at the end and on signals anyway",
       Resume::free},
      {"trainer.checkpoint.every_minutes", IntegerKind{AT(trainer.checkpoint.every_minutes), 0, million},
       "minutes", "the same by the clock; 0: none for that", Resume::free},
      {"trainer.checkpoint.keep", IntegerKind{AT(trainer.checkpoint.keep), 0, million}, "",
       "how many of the newest checkpoints are kept; 0: all", Resume::free},
      {"trainer.checkpoint.keep_every", IntegerKind{AT(trainer.checkpoint.keep_every), 0, billion}, "steps",
       "checkpoints whose step is a multiple of this are kept for ever; 0: none for that", Resume::free},
      {"trainer.checkpoint.keep_best", IntegerKind{AT(trainer.checkpoint.keep_best), 0, million}, "",
       "so many of those made right after a validation are kept that have the lowest loss", Resume::free},
      {"trainer.checkpoint.on_failure",
       choice<OnFailure>(AT(trainer.checkpoint.on_failure),
                         {{"stop", OnFailure::stop}, {"go_on", OnFailure::go_on}}),
       "", "what the run does when a checkpoint cannot be written; earlier ones stay valid", Resume::free},
      {"trainer.checkpoint.fall_back", FlagKind{AT(trainer.checkpoint.fall_back)}, "",
       "where the newest checkpoint is damaged, resume from the one before it, and say so", Resume::free},
      {"trainer.init.from", TextKind{AT(trainer.init.from)}, "",
       "begin with the model of this checkpoint, run folder or exported .safetensors, a fresh optimizer and "
       "the start of the data; empty: with a fresh model"},
      {"trainer.init.fresh", TextKind{AT(trainer.init.fresh)}, "",
       "patterns, as \"*.state.*, *.middle.*\", of tensors that start fresh where trainer.init.from lacks "
       "them"},
      {"trainer.init.unused", TextKind{AT(trainer.init.unused)}, "",
       "patterns of tensors of trainer.init.from that the model does not have"},
  };
}

std::vector<Key> training_keys() {
  return {
      {"optimizer.lr", RealKind{AT(optimizer.lr), 0.0}, "", "peak learning rate"},
      {"optimizer.min_lr", RealKind{AT(optimizer.min_lr), 0.0}, "",
       "learning rate at the end of the schedule"},
      {"optimizer.warmup_steps", IntegerKind{AT(optimizer.warmup_steps), 0, billion}, "steps",
       "linear warm-up of the learning rate"},
      {"optimizer.schedule",
       choice<Schedule>(AT(optimizer.schedule),
                        {{"cosine", Schedule::cosine}, {"constant", Schedule::constant}}),
       "", "learning rate after the warm-up"},
      {"optimizer.beta1", RealKind{AT(optimizer.beta1), 0.0, false, 1.0}, "",
       "AdamW: decay of the first moment"},
      {"optimizer.beta2", RealKind{AT(optimizer.beta2), 0.0, false, 1.0}, "",
       "AdamW: decay of the second moment"},
      {"optimizer.eps", RealKind{AT(optimizer.eps), 0.0, true}, "", "AdamW: added to the denominator"},
      {"optimizer.weight_decay", RealKind{AT(optimizer.weight_decay), 0.0}, "", "on the large matrices only"},
      {"optimizer.clip", RealKind{AT(optimizer.clip), 0.0}, "",
       "largest norm of the whole gradient; 0: no clipping"},
      {"trainer.steps", IntegerKind{AT(trainer.steps), 1, billion}, "steps", "length of the whole run",
       Resume::free},
      {"trainer.global_batch", IntegerKind{AT(trainer.global_batch), 1, million}, "sequences",
       "batch of a step, over all processes"},
      {"trainer.micro_batch", IntegerKind{AT(trainer.micro_batch), 1, million}, "sequences",
       "batch of a forward and backward pass; divides the global batch"},
      {"trainer.validate_every", IntegerKind{AT(trainer.validate_every), 0, billion}, "steps",
       "from one validation to the next; 0: only at the end", Resume::free},
      {"trainer.log_every", IntegerKind{AT(trainer.log_every), 1, billion}, "steps",
       "from one line of the log to the next; metrics.jsonl has every step", Resume::free},
      {"trainer.threads", IntegerKind{AT(trainer.threads), 1, 10'000, or_auto}, "",
       "threads of a process; auto: the cores of the node divided by its processes", Resume::free},
      {"trainer.time_limit", IntegerKind{AT(trainer.time_limit), 0, billion}, "seconds",
       "the run saves and stops, with exit code 3, before so much time is over; 0: no limit", Resume::free},
      {"trainer.grace", IntegerKind{AT(trainer.grace), 0, billion}, "seconds",
       "a run told to end (TERM, INT) that has not saved after so long ends without; 0: it may take any time",
       Resume::free},
      {"trainer.stuck_after.start", IntegerKind{AT(trainer.stuck_after.start), 0, billion}, "seconds",
       "the job ends when reading corpus and checkpoint makes no progress for so long; 0: never",
       Resume::free},
      {"trainer.stuck_after.data", IntegerKind{AT(trainer.stuck_after.data), 0, billion}, "seconds",
       "the same while samples are read", Resume::free},
      {"trainer.stuck_after.compute", IntegerKind{AT(trainer.stuck_after.compute), 0, billion}, "seconds",
       "the same in the forward pass, the backward pass or the optimizer", Resume::free},
      {"trainer.stuck_after.collective", IntegerKind{AT(trainer.stuck_after.collective), 0, billion},
       "seconds", "the same while waiting for other ranks", Resume::free},
      {"trainer.stuck_after.validation", IntegerKind{AT(trainer.stuck_after.validation), 0, billion},
       "seconds", "the same during validation", Resume::free},
      {"trainer.stuck_after.checkpoint", IntegerKind{AT(trainer.stuck_after.checkpoint), 0, billion},
       "seconds", "the same while a checkpoint is saved", Resume::free},
  };
}

#undef AT

std::vector<Key> all_keys() {
  std::vector<Key> all;
  for (auto part : {run_and_model_keys, head_keys, data_and_parallel_keys, training_keys, checkpoint_keys}) {
    for (Key& key : part()) all.push_back(std::move(key));
  }
  return all;
}

}  // namespace

const std::vector<Key>& config_keys() {
  static const std::vector<Key> keys = all_keys();
  return keys;
}

const Key* find_key(std::string_view path) {
  const auto found = std::ranges::find(config_keys(), path, &Key::path);
  return found != config_keys().end() ? &*found : nullptr;
}

bool is_section(std::string_view path) { return !names_in(path).empty(); }

std::vector<std::string_view> names_in(std::string_view section) {
  const std::size_t start = section.empty() ? 0 : section.size() + 1;
  std::vector<std::string_view> names;
  for (const Key& key : config_keys()) {
    const bool inside = section.empty() ||
                        (key.path.starts_with(section) && key.path.substr(section.size()).starts_with('.'));
    if (!inside) continue;
    const std::string_view name = key.path.substr(start, key.path.find('.', start) - start);
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

std::string_view section_of(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : path.substr(0, dot);
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('.') + 1); }

}  // namespace wuneng::trainer
