#include "dirigo/core/allocator.hpp"

#include <algorithm>
#include <bit>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dirigo {
namespace {

// Blocks from here on are aligned to, and ask for, the huge pages of Linux: a step walks through them faster
// than small pages' addresses can be looked up.
constexpr std::size_t huge_page = std::size_t{1} << 21;

std::align_val_t block_alignment(std::size_t size) {
  return std::align_val_t{size >= huge_page ? huge_page : Allocator::alignment};
}

void* system_allocate(std::size_t size) {
  void* const block = ::operator new(size, block_alignment(size));
#if defined(__linux__)
  if (size >= huge_page) madvise(block, size / huge_page * huge_page, MADV_HUGEPAGE);  // a hint: may fail
#endif
  return block;
}

void system_release(void* block, std::size_t size) noexcept {
  ::operator delete(block, block_alignment(size));
}

// Nearby sizes share blocks: multiples of an eighth of the largest power of two below.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::max(Allocator::alignment, std::bit_floor(bytes) / 8);
  if (bytes > SIZE_MAX - step) throw std::bad_alloc();
  return std::max(step, (bytes + step - 1) / step * step);
}

}  // namespace

Allocator::~Allocator() {
  trim();
}

void* Allocator::allocate(std::size_t bytes) {
  const std::size_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  void* block = nullptr;
  const auto unused = free_.find(size);
  if (unused != free_.end() && !unused->second.empty()) {
    block = unused->second.back();
    unused->second.pop_back();
  } else {
    block = system_allocate(size);
    ++statistics_.system_allocations;
  }
  statistics_.bytes_in_use += size;
  statistics_.peak_bytes_in_use = std::max(statistics_.peak_bytes_in_use, statistics_.bytes_in_use);
  return block;
}

void Allocator::release(void* block, std::size_t bytes) noexcept {
  if (block == nullptr) return;
  const std::size_t size = size_class(bytes);
  const std::lock_guard lock(mutex_);
  statistics_.bytes_in_use -= size;
  try {
    free_[size].push_back(block);
  } catch (const std::bad_alloc&) {  // no memory to remember it: give it back
    system_release(block, size);
  }
}

void Allocator::trim() noexcept {
  const std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : free_) {
    for (void* const block : blocks) system_release(block, size);
  }
  free_.clear();
}

Allocator::Statistics Allocator::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace dirigo
