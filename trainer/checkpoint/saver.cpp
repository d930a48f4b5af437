#include "trainer/checkpoint/saver.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

using parallel::Communicator;

constexpr std::size_t alignment = 64;  // of every piece in the copy

std::size_t padded(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// Large pages: the first write to fresh memory is bound by the faults of small ones.
at::Tensor make_staging(std::size_t bytes) {
  const at::Tensor memory = at::empty({static_cast<std::int64_t>(bytes)}, at::kByte);
  const auto page = static_cast<std::uintptr_t>(1) << 21;
  const auto begin = (reinterpret_cast<std::uintptr_t>(memory.data_ptr()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory.data_ptr()) + bytes) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // only advice
  return memory;
}

// In one pass: the least and the greatest are NaN where any value is.
bool is_finite(const at::Tensor& values) {
  if (values.numel() == 0 || !at::isFloatingType(values.scalar_type())) return true;
  const auto [least, greatest] = at::aminmax(values);
  return std::isfinite(least.item<double>()) && std::isfinite(greatest.item<double>());
}

bool on_the_cpu(const Shard& shard) {
  return std::ranges::all_of(shard, [](const TensorPieces& tensor) {
    return std::ranges::all_of(tensor.pieces, [](const Piece& piece) { return piece.data.is_cpu(); });
  });
}

// A checkpoint of a model that has diverged must never push out the last good one.
void check_finite(const Shard& shard) {
  for (const TensorPieces& tensor : shard)
    for (const Piece& piece : tensor.pieces)
      WN_CHECK(is_finite(piece.data),
               "{} {}: holds values that are not finite: the run has diverged, and nothing was saved; resume "
               "from an earlier checkpoint with a lower optimizer.lr",
               tensor.section, tensor.name);
}

// Texts travel as whole words.
at::Tensor to_words(const std::string& text) {
  const auto words = static_cast<std::int64_t>((text.size() + 7) / 8);
  const at::Tensor packed = at::empty({words}, at::kLong).zero_();
  std::memcpy(packed.mutable_data_ptr(), text.data(), text.size());
  return packed;
}

}  // namespace

CheckpointSaver::CheckpointSaver(std::filesystem::path checkpoints, const Retention& retention,
                                 Communicator& world)
    : checkpoints_(std::move(checkpoints)),
      retention_(retention),
      group_(world.background()),
      thread_([this] { run(); }) {}

CheckpointSaver::~CheckpointSaver() {
  // Where this rank fails alone, the others may never come to meet it.
  if (std::uncaught_exceptions() > 0) group_->cancel();
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointSaver::prepare(const Shard& shard) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !busy_; });
  reserve(shard);
  work_ = [this]() -> std::optional<Outcome> {
    std::memset(staging_.mutable_data_ptr(), 0, staging_.nbytes());  // the first write brings the memory
    return std::nullopt;
  };
  busy_ = true;
  changed_.notify_all();
}

void CheckpointSaver::begin(const CheckpointInfo& info, const Shard& shard) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !busy_; });
  start(info, copy(shard));
}

void CheckpointSaver::begin_last(const CheckpointInfo& info, const Shard& shard) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !busy_; });
  start(info, on_the_cpu(shard) ? shard : copy(shard));
}

// The thread is idle and the mutex held.
void CheckpointSaver::start(const CheckpointInfo& info, Shard shard) {
  outcome_.reset();
  work_ = [this, info, shard = std::move(shard)] {
    const auto begin = std::chrono::steady_clock::now();
    Outcome outcome = save(info, shard);
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return std::optional(outcome);
  };
  busy_ = true;
  changed_.notify_all();
}

std::optional<CheckpointSaver::Outcome> CheckpointSaver::poll() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcome_, std::nullopt);
}

std::optional<CheckpointSaver::Outcome> CheckpointSaver::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !busy_; });
  return std::exchange(outcome_, std::nullopt);
}

void CheckpointSaver::run() {
  const at::NoGradGuard no_grad;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || work_; });
    if (!work_) return;
    auto work = std::exchange(work_, nullptr);
    lock.unlock();
    std::optional<Outcome> outcome = work();
    work = nullptr;  // and with it the shard's tensors
    lock.lock();
    outcome_ = std::move(outcome);
    busy_ = false;
    changed_.notify_all();
  }
}

void CheckpointSaver::reserve(const Shard& shard) {
  std::size_t bytes = 0;
  for (const TensorPieces& tensor : shard)
    for (const Piece& piece : tensor.pieces) bytes += padded(piece.data.nbytes());
  if (staging_bytes() < bytes) staging_ = make_staging(bytes);
}

Shard CheckpointSaver::copy(const Shard& shard) {
  reserve(shard);
  Shard copied = shard;
  std::int64_t used = 0;
  for (TensorPieces& tensor : copied)
    for (Piece& piece : tensor.pieces) {
      const auto size = static_cast<std::int64_t>(piece.data.nbytes());
      const at::Tensor target =
          staging_.narrow(0, used, size).view(piece.data.scalar_type()).view(piece.data.sizes());
      piece.data = target.copy_(piece.data);
      used += static_cast<std::int64_t>(padded(piece.data.nbytes()));
    }
  return copied;
}

// The ranks meet after each part of the work, with what went wrong: either the manifest is written last, or
// all know why not.
CheckpointSaver::Outcome CheckpointSaver::save(const CheckpointInfo& info, const Shard& shard) {
  Outcome outcome{checkpoints_ / checkpoint_name(info.position.step), {}, 0.0};
  bool needed = true;
  Manifest manifest;
  const auto agreed = [&](const auto& work) {
    std::string error;
    try {
      work();
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    outcome.error = agreed_error(error);
    return outcome.error.empty();
  };
  const bool first = group_->rank() == 0;
  try {
    if (!agreed([&] {
          check_finite(shard);
          if (first) needed = prepare_checkpoint(outcome.folder);
        }))
      return outcome;
    const at::Tensor there = at::empty({1}, at::kLong).fill_(needed ? 0 : 1);
    group_->broadcast(there, 0);
    if (there.item<std::int64_t>() == 0) {
      if (!agreed([&] { manifest = write_shard(outcome.folder, shard, group_->rank(), group_->size()); }))
        return outcome;
      manifest = gather(std::move(manifest));
    }
    agreed([&] {
      if (!first) return;
      manifest.info = info;
      if (needed) finish_checkpoint(outcome.folder, std::move(manifest));
      apply_retention(checkpoints_, retention_);
    });
  } catch (const std::exception& failure) {  // of the network
    outcome.error = failure.what();
  }
  return outcome;
}

// Empty when no rank has one; else the first rank's. The wait is one that leaves the core to others.
std::string CheckpointSaver::agreed_error(const std::string& mine) {
  const at::Tensor failed = at::empty({1}, at::kLong).fill_(mine.empty() ? 0 : 1);
  const at::Tensor all = at::empty({group_->size()}, at::kLong);
  group_->all_gather(failed, all);
  if (!all.any().item<bool>()) return {};
  const std::vector<std::string> errors = group_->all_gather_text(mine);
  const auto found = std::ranges::find_if(errors, [](const std::string& error) { return !error.empty(); });
  return group_->size() == 1 ? *found : fmt::format("rank {}: {}", found - errors.begin(), *found);
}

// On rank 0 the parts of all ranks; on the others their own.
Manifest CheckpointSaver::gather(Manifest mine) {
  const std::string text = group_->rank() == 0 ? std::string() : manifest_text(mine);
  const at::Tensor length = at::empty({1}, at::kLong).fill_(static_cast<std::int64_t>(text.size()));
  const at::Tensor lengths = at::empty({group_->size()}, at::kLong);
  group_->all_gather(length, lengths);
  if (group_->rank() != 0) {
    group_->send(to_words(text), 0);
    return mine;
  }
  for (int r = 1; r < group_->size(); ++r) {
    const auto bytes = static_cast<std::size_t>(lengths[r].item<std::int64_t>());
    const at::Tensor words = at::empty({static_cast<std::int64_t>((bytes + 7) / 8)}, at::kLong);
    group_->receive(words, r);
    const std::string part(static_cast<const char*>(words.const_data_ptr()), bytes);
    mine.add(parse_manifest(part, fmt::format("the part of rank {}", r), Extent::part));
  }
  return mine;
}

}  // namespace wuneng::trainer
