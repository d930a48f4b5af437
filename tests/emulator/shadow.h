// The shadow of memory: for every two bytes (neighbouring bf16 belong to different lanes) who wrote them
// last, who reads them, and whether anything orders them with the next access. Internal to the emulator.
//
// Only sync_block and sync_warp order memory; shuffles, matrix loads and products do not (PTX ISA). As both
// are rendezvous of whole blocks and whole warps, two counters replace vector clocks: an interval number that
// every sync_block of the block raises, and one per warp that its sync_warp raises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/emulator/checker.h"

namespace wuneng::emulator {

// Who an access belongs to. A matrix load's rows go to all lanes of the warp. The last two only describe a
// set of reads: of several warps of the block, of several blocks.
enum class Scope : std::uint8_t { thread, warp, warps, blocks };

struct Access {
  std::uint32_t interval = 0;  // 0: the host
  std::uint32_t warp_interval = 0;
  std::uint32_t site = 0;  // return address, counted from the program's start
  std::uint16_t thread = 0;
  Scope scope = Scope::thread;
};

struct Cell {
  Access write, read;
  enum State : std::uint8_t { fresh, defined, in_flight } state = fresh;
};

struct Memory {
  const std::byte* data;
  std::size_t bytes, guard;
  std::vector<Cell> cells;
};

class Shadow : public Checker {
 public:
  void add_memory(const std::byte* data, std::size_t bytes, std::size_t guard) override;
  void remove_memory(const std::byte* data) override;
  void set_memory(const std::byte* data, bool fresh) override;
  void begin_launch() override;
  void end_launch() override { launched_ = false; }
  void begin_block(int threads) override;
  void exit_thread(int thread) override { exits_[thread] = interval_; }
  void sync_block() override { ++interval_; }
  void sync_warp(int warp) override { ++warp_intervals_[warp]; }
  void matrix_read(int warp, const void* address, std::size_t bytes, void* site) override;
  void copy_issued(int thread, const void* shared, const void* global, void* site) override;
  void copy_landed(int thread, const void* shared) override;
  std::string findings() override;

  // A plain load or store, from the compiler's hooks.
  void plain(const void* address, std::size_t bytes, bool writes, bool aligned, void* site) {
    const auto* p = static_cast<const std::byte*>(address);
    if (p < lowest_ || p >= highest_) return;
    plain_in_range(p, bytes, writes, aligned, site);
  }

 private:
  void plain_in_range(const std::byte* p, std::size_t bytes, bool writes, bool aligned, void* site);
  Memory* find(const std::byte* p);
  void update_range();
  bool in_bounds(const Memory& memory, const std::byte* p, std::size_t bytes, const Access& access);
  // The cells of an access within bounds, none otherwise.
  std::pair<Cell*, Cell*> cells(const std::byte* p, std::size_t bytes, const Access& access);
  void read(const std::byte* p, std::size_t bytes, const Access& access);
  void write(const std::byte* p, std::size_t bytes, const Access& access, Cell::State becomes);
  void note_read(Cell& cell, const Access& access) const;
  Access by(int thread, Scope scope, void* site) const;
  bool ordered(const Access& earlier, const Access& now) const;
  void report(const char* kind, const Access* earlier, const Access& now, const std::byte* p);

  struct Finding {
    const char* kind;
    std::uint32_t earlier, now;  // sites
    std::string who;
  };

  std::vector<Memory> memories_;  // by address
  const std::byte *lowest_ = nullptr, *highest_ = nullptr;
  bool launched_ = false;
  std::uint32_t interval_ = 1, launch_start_ = 1, block_start_ = 1;
  std::vector<std::uint32_t> warp_intervals_, exits_;
  std::set<std::tuple<std::string, std::uint32_t, std::uint32_t>> seen_;
  std::vector<Finding> findings_;
};

}  // namespace wuneng::emulator
