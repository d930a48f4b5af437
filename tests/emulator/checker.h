// What the shadow build adds to the emulator: it is told of every access and of everything that orders
// memory. shadow.cpp implements it and registers itself; the other builds link no checker.
#pragma once

#include <cstddef>
#include <string>

namespace wuneng::emulator {

class Checker {
 public:
  virtual ~Checker() = default;

  // Memory that is checked. "Fresh" is never written; else it is defined, by the host.
  virtual void add_memory(const std::byte* data, std::size_t bytes, std::size_t guard) = 0;
  virtual void remove_memory(const std::byte* data) = 0;
  virtual void set_memory(const std::byte* data, bool fresh) = 0;

  virtual void begin_launch() = 0;
  virtual void end_launch() = 0;
  virtual void begin_block(int threads) = 0;
  virtual void exit_thread(int thread) = 0;
  virtual void sync_block() = 0;
  virtual void sync_warp(int warp) = 0;

  // `site` is the return address of the primitive in the kernel.
  virtual void matrix_read(int warp, const void* address, std::size_t bytes, void* site) = 0;
  virtual void copy_issued(int thread, const void* shared, const void* global, void* site) = 0;
  virtual void copy_landed(int thread, const void* shared) = 0;

  // The findings since begin_launch, with source lines; empty when there are none.
  virtual std::string findings() = 0;
};

Checker*& checker();  // null without one

}  // namespace wuneng::emulator
