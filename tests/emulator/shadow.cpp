#include "tests/emulator/shadow.h"

#include <algorithm>
#include <utility>

#include "tests/emulator/machine.h"
#include "tests/emulator/source_lines.h"

namespace wuneng::emulator {
namespace {

constexpr std::size_t granule = 2;
constexpr std::size_t most_findings = 8;

const std::byte* bytes_of(const void* p) { return static_cast<const std::byte*>(p); }

}  // namespace

// ---------------------------------------------------------------- known memory ----

void Shadow::add_memory(const std::byte* data, std::size_t bytes, std::size_t guard) {
  const auto place =
      std::find_if(memories_.begin(), memories_.end(), [&](const Memory& m) { return m.data > data; });
  memories_.insert(place, {data, bytes, guard, std::vector<Cell>((bytes + granule - 1) / granule)});
  update_range();
}

void Shadow::remove_memory(const std::byte* data) {
  std::erase_if(memories_, [&](const Memory& m) { return m.data == data; });
  update_range();
}

void Shadow::set_memory(const std::byte* data, bool fresh) {
  Memory* memory = find(data);
  if (memory == nullptr) return;
  Cell cell;
  cell.state = fresh ? Cell::fresh : Cell::defined;
  std::fill(memory->cells.begin(), memory->cells.end(), cell);
}

void Shadow::update_range() {
  lowest_ = memories_.empty() ? nullptr : memories_.front().data - memories_.front().guard;
  highest_ =
      memories_.empty() ? nullptr : memories_.back().data + memories_.back().bytes + memories_.back().guard;
}

Memory* Shadow::find(const std::byte* p) {
  const auto above = std::partition_point(memories_.begin(), memories_.end(),
                                          [&](const Memory& m) { return m.data - m.guard <= p; });
  if (above == memories_.begin()) return nullptr;
  Memory& m = *std::prev(above);
  return p < m.data + m.bytes + m.guard ? &m : nullptr;
}

// --------------------------------------------------------------------- ordering ----

void Shadow::begin_launch() {
  launched_ = true;
  launch_start_ = ++interval_;
  seen_.clear();
  findings_.clear();
}

void Shadow::begin_block(int threads) {
  block_start_ = ++interval_;
  warp_intervals_.assign(static_cast<std::size_t>(threads / warp_lanes), 0);
  exits_.assign(static_cast<std::size_t>(threads), 0);
}

Access Shadow::by(int thread, Scope scope, void* site) const {
  return {interval_, warp_intervals_[thread / warp_lanes], program_offset(site),
          static_cast<std::uint16_t>(thread), scope};
}

bool Shadow::ordered(const Access& earlier, const Access& now) const {
  if (earlier.interval < launch_start_) return true;
  if (earlier.scope == Scope::blocks || earlier.interval < block_start_)
    return false;  // blocks have no order
  // A barrier lies between, but not for a thread that exited instead of reaching it.
  if (earlier.interval < interval_) return exits_[earlier.thread] != earlier.interval;
  if (earlier.scope == Scope::warps || earlier.thread / warp_lanes != now.thread / warp_lanes) return false;
  if (earlier.warp_interval < now.warp_interval) return true;
  return earlier.scope == Scope::thread && now.scope == Scope::thread && earlier.thread == now.thread;
}

// One slot of readers is enough, as all earlier ones are ordered before whatever raises an interval.
void Shadow::note_read(Cell& cell, const Access& access) const {
  Access& r = cell.read;
  const bool this_launch = r.interval >= launch_start_;
  Scope scope = access.scope;
  if (this_launch && (r.scope == Scope::blocks || r.interval < block_start_))
    scope = Scope::blocks;
  else if (r.interval == interval_ &&
           (r.scope == Scope::warps || r.thread / warp_lanes != access.thread / warp_lanes))
    scope = Scope::warps;
  else if (r.interval == interval_ && r.warp_interval == access.warp_interval && r.thread != access.thread)
    scope = Scope::warp;
  else if (r.interval == interval_ && r.warp_interval == access.warp_interval)
    scope = std::max(r.scope, scope);
  r = access;
  r.scope = scope;
}

// --------------------------------------------------------------------- accesses ----

void Shadow::plain_in_range(const std::byte* p, std::size_t bytes, bool writes, bool aligned, void* site) {
  if (!launched_) {  // the test itself
    Memory* memory = find(p);
    if (memory == nullptr || !writes || p < memory->data || p + bytes > memory->data + memory->bytes) return;
    for (std::size_t i = 0; i < bytes; i += granule)
      memory->cells[(p - memory->data + i) / granule].state = Cell::defined;
    return;
  }
  const Access access = by(Machine::running().thread(), Scope::thread, site);
  if (aligned && reinterpret_cast<std::uintptr_t>(p) % bytes != 0 && find(p) != nullptr) {
    report("misaligned access", nullptr, access, p);
    Machine::running().abandon("the processor may trap");
  }
  if (writes)
    write(p, bytes, access, Cell::defined);
  else
    read(p, bytes, access);
}

void Shadow::matrix_read(int warp, const void* address, std::size_t bytes, void* site) {
  read(bytes_of(address), bytes, by(warp * warp_lanes, Scope::warp, site));
}

void Shadow::copy_issued(int thread, const void* shared, const void* global, void* site) {
  const Access access = by(thread, Scope::thread, site);
  if (global != nullptr) read(bytes_of(global), 16, access);
  write(bytes_of(shared), 16, access, Cell::in_flight);
}

void Shadow::copy_landed(int thread, const void* shared) {
  Access access = by(thread, Scope::thread, nullptr);
  const auto [first, last] = cells(bytes_of(shared), 16, access);
  for (Cell* cell = first; cell != last; ++cell) {
    access.site = cell->write.site;
    cell->write = access;
    cell->state = Cell::defined;
  }
}

std::pair<Cell*, Cell*> Shadow::cells(const std::byte* p, std::size_t bytes, const Access& access) {
  Memory* memory = find(p);
  if (memory == nullptr || !in_bounds(*memory, p, bytes, access)) return {nullptr, nullptr};
  const std::size_t offset = static_cast<std::size_t>(p - memory->data);
  Cell* all = memory->cells.data();
  return {all + offset / granule, all + (offset + bytes + granule - 1) / granule};
}

bool Shadow::in_bounds(const Memory& memory, const std::byte* p, std::size_t bytes, const Access& access) {
  const bool inside = p >= memory.data && p + bytes <= memory.data + memory.bytes;
  if (!inside)
    report(p < memory.data ? "access before the start" : "access past the end", nullptr, access, p);
  return inside;
}

void Shadow::read(const std::byte* p, std::size_t bytes, const Access& access) {
  const auto [first, last] = cells(p, bytes, access);
  for (Cell* cell = first; cell != last; ++cell, p += granule) {
    if (cell->state == Cell::fresh)
      report("uninitialised read", nullptr, access, p);
    else if (cell->state == Cell::in_flight)
      report("read while a copy is in flight", &cell->write, access, p);
    else if (!ordered(cell->write, access))
      report("race: read after a write", &cell->write, access, p);
    note_read(*cell, access);
  }
}

void Shadow::write(const std::byte* p, std::size_t bytes, const Access& access, Cell::State becomes) {
  const auto [first, last] = cells(p, bytes, access);
  for (Cell* cell = first; cell != last; ++cell, p += granule) {
    if (cell->state == Cell::in_flight)
      report("write while a copy is in flight", &cell->write, access, p);
    else if (!ordered(cell->write, access))
      report("race: write after a write", &cell->write, access, p);
    if (!ordered(cell->read, access)) report("race: write after a read", &cell->read, access, p);
    cell->write = access;
    cell->state = becomes;
  }
}

// --------------------------------------------------------------------- findings ----

// The same two places again say nothing new, and resolving lines is slow.
void Shadow::report(const char* kind, const Access* earlier, const Access& now, const std::byte* p) {
  const std::uint32_t site = earlier ? earlier->site : 0;
  if (findings_.size() >= most_findings || !seen_.insert({kind, site, now.site}).second) return;
  const Memory& memory = *find(p);
  const bool shared = memory.data == Machine::running().shared();
  std::string who = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                    std::to_string(blockIdx.z) + "), thread " + std::to_string(now.thread) +
                    (earlier ? " after thread " + std::to_string(earlier->thread) : "") + ", byte " +
                    std::to_string(p - memory.data) + " of " +
                    (shared ? "shared memory" : "a tensor of " + std::to_string(memory.bytes) + " bytes");
  findings_.push_back({kind, site, now.site, std::move(who)});
}

std::string Shadow::findings() {
  std::vector<std::uint32_t> sites;
  for (const Finding& f : findings_) sites.insert(sites.end(), {f.now, f.earlier});
  const std::vector<std::string> lines = source_lines(sites);
  std::string text;
  for (std::size_t i = 0; i < findings_.size(); ++i) {
    const Finding& f = findings_[i];
    text += (i ? "\n" : "") + std::string(f.kind) + ": " + f.who + "\n    at " + lines[2 * i];
    if (f.earlier != 0) text += "\n    after " + lines[2 * i + 1];
  }
  return text;
}

}  // namespace wuneng::emulator
