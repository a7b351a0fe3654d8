// Allocator: 64-byte-aligned blocks that are kept for reuse when they are given back.
//
// A training step after the first asks for the same sizes again, so it makes no system allocation.
// Thread-safe. Owned by a Context; every Storage keeps it alive.
#pragma once

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
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  Statistics statistics_;
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
