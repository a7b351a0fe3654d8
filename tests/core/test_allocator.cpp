#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "dirigo/core/allocator.hpp"

using dirigo::Allocator;
using dirigo::Scratch;

TEST_CASE("allocator: blocks are aligned, writable and reused") {
  Allocator allocator;
  for (const std::size_t bytes : {0, 1, 63, 64, 65, 511, 513, 4097, 1000000}) {
    void* const block = allocator.allocate(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(block) % Allocator::alignment == 0);
    std::memset(block, 1, bytes);
    const auto before = allocator.statistics();
    CHECK(before.bytes_in_use >= bytes);
    CHECK(before.bytes_in_use <= bytes + bytes / 8 + Allocator::alignment);
    allocator.release(block, bytes);
    CHECK(allocator.statistics().bytes_in_use == 0);
    CHECK(allocator.allocate(bytes) == block);
    CHECK(allocator.statistics().system_allocations == before.system_allocations);
    allocator.release(block, bytes);
  }
}

TEST_CASE("allocator: nearby sizes share blocks, and trim gives them back") {
  Allocator allocator;
  void* const block = allocator.allocate(1 << 20);
  allocator.release(block, 1 << 20);
  CHECK(allocator.allocate((1 << 20) - 1000) == block);
  allocator.release(block, (1 << 20) - 1000);
  allocator.trim();
  allocator.release(allocator.allocate(1 << 20), 1 << 20);
  CHECK(allocator.statistics().system_allocations == 2);
}

TEST_CASE("allocator: peak, and impossible sizes") {
  Allocator allocator;
  {
    const Scratch<float> a(allocator, 1024), b(allocator, 1024);
    CHECK(allocator.statistics().bytes_in_use == 8192);
  }
  const Scratch<float> c(allocator, 16);
  CHECK(allocator.statistics().bytes_in_use == 64);
  CHECK(allocator.statistics().peak_bytes_in_use == 8192);
  CHECK_THROWS_AS(allocator.allocate(SIZE_MAX), std::bad_alloc);
  CHECK(allocator.statistics().bytes_in_use == 64);
}

TEST_CASE("allocator: a thread gets its own block back first, and another's before the system is asked") {
  Allocator allocator;
  void *const first = allocator.allocate(4096), *const second = allocator.allocate(4096);
  allocator.release(first, 4096);
  void* taken = nullptr;
  std::thread([&] {
    allocator.release(second, 4096);
    taken = allocator.allocate(4096);
  }).join();
  CHECK(taken == second);
  std::thread([&] { taken = allocator.allocate(4096); }).join();
  CHECK(taken == first);
  CHECK(allocator.statistics().system_allocations == 2);
  allocator.release(first, 4096);
  allocator.release(second, 4096);
}

TEST_CASE("allocator: concurrent use") {
  Allocator allocator;
  std::vector<std::thread> threads;
  std::vector<int> intact(4, 1);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        Scratch<int> scratch(allocator, std::size_t(64 + i % 50));
        scratch[0] = t;
        scratch[63] = i;
        if (scratch[0] != t || scratch[63] != i) intact[std::size_t(t)] = 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(intact == std::vector<int>(4, 1));
  CHECK(allocator.statistics().bytes_in_use == 0);
}
