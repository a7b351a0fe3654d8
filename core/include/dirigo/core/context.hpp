// Context: the threads, the instruction set and the memory that computations use.
//
// There is no global state: whoever computes owns a Context and passes it on. The library starts threads only
// inside a parallel region of a Context, and never more than Context::threads() of them.
//
// Results do not depend on the number of threads: work is cut into blocks of a constant size, and every
// reduction runs in a fixed order.
//
// Denormals are flushed to zero in the parallel regions of float computations only: there they cost time and
// carry no information. Regions of double computations keep them, whatever mode the calling thread is in, for
// double serves as the reference. The calling thread's mode is restored when a region ends.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dirigo/core/allocator.hpp"
#include "dirigo/core/function_ref.hpp"

namespace dirigo {

template <class T>
struct KernelTable;

// Instruction sets for which a kernel table exists. `portable` is SSE2 on x86-64, NEON on AArch64.
enum class Isa : std::uint8_t { portable, avx2, avx512 };

std::string_view isa_name(Isa isa) noexcept;  // "sse2" (or "neon"), "avx2", "avx512"
std::vector<Isa> available_isas();            // what this processor and build can run, slowest first
// The table that DIRIGO_ISA names, else the fastest available. Throws ValueError for one this machine lacks.
Isa choose_isa();
// Throws ValueError for an unknown name or one that this machine lacks.
Isa parse_isa(std::string_view name);

// How many threads are worth using: the least of the physical cores, the affinity mask and the floor of the
// cgroup's CPU quota, at least 1.
struct ThreadLimit {
  int threads;
  std::string_view decided_by;  // "physical cores", "affinity" or "cgroup quota"
};
ThreadLimit thread_limit();

// Multiply-adds that really ran, counted as two FLOPs each.
struct FlopCounter {
  std::atomic<std::uint64_t> products{0};   // matrix products
  std::atomic<std::uint64_t> attention{0};  // attention core: QK, PV, linear state; unmasked pairs only
  std::atomic<std::uint64_t> attention_padding{
      0};  // work on masked pairs that share a tile with unmasked ones
};

class Context {
 public:
  using Body = FunctionRef<void(std::int64_t, std::int64_t)>;

  struct Options {
    int threads = 0;  // 0: thread_limit()
    Isa isa = choose_isa();
  };

  Context();
  explicit Context(const Options& options);  // throws ValueError: threads < 0, ISA not available
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int threads() const noexcept;
  // Threads that a region entered now would have: 1 within a region, since nested ones run serially.
  int free_threads() const noexcept;
  Isa isa() const noexcept;

  // Kernels for T = float (of the chosen instruction set) or double (always the portable table).
  template <class T>
  const KernelTable<T>& kernels() const noexcept;

  const std::shared_ptr<Allocator>& allocator() const noexcept;
  FlopCounter& flops() const noexcept;

  // Calls body(begin, end) for consecutive blocks of `grain` (the last may be shorter) that cover [0, n), on
  // up to threads() threads. Block boundaries depend on n and grain alone. Give it at least 100 us of work.
  // T, the type that body computes for, decides about denormals: float flushes them, double keeps them.
  // Nested calls run serially, each in the mode of its own T. An exception thrown by body is rethrown here.
  template <class T>
  void parallel_for(std::int64_t n, std::int64_t grain, Body body) const {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
    run_blocks(n, grain, body, std::is_same_v<T, float> ? Denormals::flush : Denormals::keep);
  }

 private:
  enum class Denormals : std::uint8_t { flush, keep };
  void run_blocks(std::int64_t n, std::int64_t grain, Body body, Denormals denormals) const;

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

template <>
const KernelTable<float>& Context::kernels<float>() const noexcept;
template <>
const KernelTable<double>& Context::kernels<double>() const noexcept;

}  // namespace dirigo
