// Checkpoints against `cp` and `cat` of the same bytes on the same disk, in turns, in the same run:
//
//   build/wuneng_checkpoint_bench FOLDER [GB]              1 GB; FOLDER/checkpoint_bench is used and removed
//   mpirun -n 2 build/wuneng_checkpoint_bench FOLDER [GB]  each rank saves its half
//
// save: CheckpointSaver::begin, which stops training, and all of the save, to the synced manifest; against
// `cp` and fsync of each file (`sync FILES`). load: what resuming does (open, check all hashes, fill tensors)
// against `cat FILES > /dev/null`, with the files in the page cache for both, then with them in it for
// neither. Medians of five rounds. Saving has one thread, because training has the others; loading has all.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <vector>

#include "common/check.h"
#include "parallel/world.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/saver.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int rounds = 5;

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void shell(const std::string& command) { WN_CHECK(std::system(command.c_str()) == 0, "failed: {}", command); }

// A model of many tensors with the two moments of each: matrices of 4 MB, and vectors. Of several ranks each
// has every size()-th tensor.
Shard synthetic(double bytes, int rank, int ranks) {
  Shard shard;
  const auto add = [&](const char* section, const std::string& name, const std::vector<std::int64_t>& shape) {
    TensorPieces tensor{section, name, shape, at::kFloat, {}};
    if (static_cast<int>(shard.size()) % ranks == rank)
      tensor.pieces = {{std::vector<std::int64_t>(shape.size(), 0), at::randn(shape)}};
    shard.push_back(std::move(tensor));
  };
  const auto matrices = static_cast<int>(bytes / 12 / (1 << 20));
  for (int i = 0; i < matrices; ++i) {
    add("model", fmt::format("layers.{}.weight", i), {1024, 1024});
    add("model", fmt::format("layers.{}.scale", i), {1024});
  }
  for (int i = 0; i < matrices; ++i)
    for (const char* moment : {"first", "second"}) {
      add("optimizer", fmt::format("layers.{}.weight.{}", i, moment), {1024, 1024});
      add("optimizer", fmt::format("layers.{}.scale.{}", i, moment), {1024});
    }
  return shard;
}

// The files leave the page cache; they are on the disk already.
void forget(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
}

void save_bench(const fs::path& folder, const Shard& shard, double bytes, parallel::World& world) {
  CheckpointSaver saver(folder, {.newest = 0}, world.communicator());
  saver.prepare(shard);
  saver.wait();
  std::vector<double> blocking, total, copying;
  for (int round = 0; round < rounds; ++round) {
    CheckpointInfo info;
    info.position.step = 1 + round;
    world.communicator().barrier();
    double begin = 0.0;
    total.push_back(seconds([&] {
      begin = seconds([&] { saver.begin(info, shard); });
      const auto outcome = saver.wait();
      WN_CHECK(outcome && outcome->error.empty(), "{}", outcome ? outcome->error : "no outcome");
    }));
    blocking.push_back(begin);
    if (world.rank() != 0) continue;
    const std::string mine = (folder / checkpoint_name(1 + round)).string(),
                      copy = (folder / "copy").string();
    copying.push_back(
        seconds([&] { shell("cp -r " + mine + " " + copy + " && sync " + copy + "/* " + copy); }));
    fs::remove_all(copy);
    if (round > 0) fs::remove_all(folder / checkpoint_name(round));
    shell("sync -f " + folder.string());
  }
  if (world.rank() != 0) return;
  const double save = median(total), cp = median(copying), first = blocking[0];
  blocking.erase(blocking.begin());
  const double later = median(blocking);
  fmt::print("save   {:.2f} s, {:.2f} GB/s   cp and fsync {:.2f} s, {:.2f} GB/s   ratio {:.2f}\n", save,
             bytes / save / 1e9, cp, bytes / cp / 1e9, save / cp);
  fmt::print("blocks {:.3f} s, {:.1f} % of the save; the first {:.3f} s, {:.1f} %\n", later,
             100.0 * later / save, first, 100.0 * first / total[0]);
}

void load_bench(const fs::path& folder, Shard& shard, double bytes) {
  const std::string cat = "cat " + folder.string() + "/* > /dev/null";
  const auto load = [&] {
    const Checkpoint checkpoint(folder);
    checkpoint.load(shard, Checkpoint::Hashes::check);
  };
  for (const bool cached : {true, false}) {
    std::vector<double> loading, reading;
    if (cached) shell(cat);
    for (int round = 0; round < rounds; ++round) {
      if (!cached) forget(folder);
      reading.push_back(seconds([&] { shell(cat); }));
      if (!cached) forget(folder);
      loading.push_back(seconds(load));
    }
    const double ours = median(loading), theirs = median(reading);
    fmt::print("load   {:.2f} s, {:.2f} GB/s   cat {:.2f} s, {:.2f} GB/s   ratio {:.2f}   files {} cached\n",
               ours, bytes / ours / 1e9, theirs, bytes / theirs / 1e9, ours / theirs,
               cached ? "are" : "are not");
  }
}

void bench(const fs::path& folder, double bytes, parallel::World& world) {
  const int ranks = world.size();
  WN_CHECK(!fs::exists(folder) || world.rank() != 0, "{}: exists; remove it first", folder.string());
  if (world.rank() == 0) {
    make_folder(folder);
    const auto room = static_cast<double>(fs::space(folder).available);
    WN_CHECK(room > 4 * bytes, "{}: needs {:.1f} GB of free disk", folder.string(), 4 * bytes / 1e9);
  }
  world.communicator().barrier();
  Shard shard = synthetic(bytes, world.rank(), ranks);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);  // the others train
  save_bench(folder, shard, bytes, world);
  at::set_num_threads(threads);
  if (world.rank() == 0 && ranks == 1) load_bench(folder / checkpoint_name(rounds), shard, bytes);
  world.communicator().barrier();
  if (world.rank() == 0) fs::remove_all(folder);
}

}  // namespace
}  // namespace wuneng::trainer

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: wuneng_checkpoint_bench FOLDER [GB]\n");
    return 2;
  }
  wuneng::parallel::World world;
  wuneng::trainer::bench(std::filesystem::path(argv[1]) / "checkpoint_bench",
                         (argc > 2 ? std::atof(argv[2]) : 1.0) * 1e9, world);
}
