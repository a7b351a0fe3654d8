// Allocator: 64-byte-aligned blocks that are kept for reuse when they are given back.
//
// A training step after the first asks for the same sizes again, so it makes no system allocation. A thread
// gets back what it gave back last, which its core's cache still holds, before it is given another thread's.
// Thread-safe. Owned by a Context; every Storage keeps it alive.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace dirigo {

class Allocator {
 public:
  static constexpr std::size_t alignment = 64;

  Allocator() = default;
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // A block of at least `bytes` bytes, uninitialised. Throws std::bad_alloc.
  void* allocate(std::size_t bytes);
  // Gives back a block obtained with the same `bytes`.
  void release(void* block, std::size_t bytes) noexcept;
  // Returns all unused blocks to the system.
  void trim() noexcept;

  struct Statistics {
    std::int64_t system_allocations = 0;  // how often the system was asked
    std::size_t bytes_in_use = 0;
    std::size_t peak_bytes_in_use = 0;
  };
  Statistics statistics() const;

 private:
  // Unused blocks by size. Threads are spread over several such lists.
  struct FreeList {
    std::mutex mutex;
    std::map<std::size_t, std::vector<void*>> blocks;
  };
  static constexpr std::size_t list_count = 32;
  static std::size_t own_list() noexcept;  // the calling thread's
  void* take(std::size_t size);            // an unused block, or null

  std::array<FreeList, list_count> free_;
  std::atomic<std::int64_t> system_allocations_ = 0;
  std::atomic<std::size_t> bytes_in_use_ = 0, peak_bytes_in_use_ = 0;
};

// Uninitialised scratch memory of n values of T for the duration of a scope.
template <class T>
class Scratch {
 public:
  Scratch(Allocator& allocator, std::size_t n)
      : allocator_(allocator), bytes_(n * sizeof(T)), data_(static_cast<T*>(allocator.allocate(bytes_))) {}
  ~Scratch() { allocator_.release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() noexcept { return data_; }
  T& operator[](std::size_t i) noexcept { return data_[i]; }

 private:
  Allocator& allocator_;
  std::size_t bytes_;
  T* data_;
};

}  // namespace dirigo
