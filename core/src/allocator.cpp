#include "dirigo/core/allocator.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <new>
#include <thread>

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

std::size_t Allocator::own_list() noexcept {
  return std::hash<std::thread::id>{}(std::this_thread::get_id()) % list_count;
}

void* Allocator::take(std::size_t size) {
  const std::size_t own = own_list();
  for (std::size_t i = 0; i < list_count; ++i) {
    FreeList& list = free_[(own + i) % list_count];
    const std::lock_guard lock(list.mutex);
    const auto unused = list.blocks.find(size);
    if (unused == list.blocks.end() || unused->second.empty()) continue;
    void* const block = unused->second.back();
    unused->second.pop_back();
    return block;
  }
  return nullptr;
}

void* Allocator::allocate(std::size_t bytes) {
  const std::size_t size = size_class(bytes);
  void* block = take(size);
  if (block == nullptr) {
    block = system_allocate(size);
    ++system_allocations_;
  }
  const std::size_t in_use = bytes_in_use_ += size;
  std::size_t peak = peak_bytes_in_use_;
  while (in_use > peak && !peak_bytes_in_use_.compare_exchange_weak(peak, in_use)) {
  }
  return block;
}

void Allocator::release(void* block, std::size_t bytes) noexcept {
  if (block == nullptr) return;
  const std::size_t size = size_class(bytes);
  bytes_in_use_ -= size;
  FreeList& list = free_[own_list()];
  const std::lock_guard lock(list.mutex);
  try {
    list.blocks[size].push_back(block);
  } catch (const std::bad_alloc&) {  // no memory to remember it: give it back
    system_release(block, size);
  }
}

void Allocator::trim() noexcept {
  for (FreeList& list : free_) {
    const std::lock_guard lock(list.mutex);
    for (auto& [size, blocks] : list.blocks) {
      for (void* const block : blocks) system_release(block, size);
    }
    list.blocks.clear();
  }
}

Allocator::Statistics Allocator::statistics() const {
  return {system_allocations_, bytes_in_use_, peak_bytes_in_use_};
}

}  // namespace dirigo
