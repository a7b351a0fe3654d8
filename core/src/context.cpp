#include "dirigo/core/context.hpp"

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/kernels.hpp"
#include "kernels/tables.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(DIRIGO_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace dirigo {
namespace {

// The floating-point control register with "flush denormals to zero" set or cleared, for a scope's duration.
class DenormalMode {
 public:
  explicit DenormalMode(bool flush) noexcept : saved_(read()) {
    write(flush ? saved_ | flush_bits : saved_ & ~flush_bits);
  }
  ~DenormalMode() { write(saved_); }
  DenormalMode(const DenormalMode&) = delete;
  DenormalMode& operator=(const DenormalMode&) = delete;

 private:
#if defined(__x86_64__)
  using Register = unsigned;
  static constexpr Register flush_bits = 0x8040;  // flush to zero, denormals are zero
  static Register read() noexcept {
    return _mm_getcsr();
  }
  static void write(Register value) noexcept {
    _mm_setcsr(value);
  }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register flush_bits = std::uint64_t{1} << 24;  // FPCR.FZ
  static Register read() noexcept {
    Register value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) noexcept {
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
  }
#else
#error "unsupported processor"
#endif
  Register saved_;
};

// Whether this thread is inside a block, so that nested regions run serially.
thread_local bool inside_block = false;

class BlockScope {
 public:
  explicit BlockScope(bool flush) noexcept : outer_(inside_block), mode_(flush) { inside_block = true; }
  ~BlockScope() { inside_block = outer_; }
  BlockScope(const BlockScope&) = delete;
  BlockScope& operator=(const BlockScope&) = delete;

 private:
  bool outer_;
  DenormalMode mode_;
};

// Tells ThreadSanitizer what oneTBB, whose library it does not see into, orders: what was written before a
// region is seen by its blocks, and what they wrote is seen after it. Does nothing in other builds.
class ForkJoin {
 public:
  ForkJoin() noexcept { release(fork_); }
  ~ForkJoin() { acquire(join_); }
  ForkJoin(const ForkJoin&) = delete;
  ForkJoin& operator=(const ForkJoin&) = delete;

  class Block {
   public:
    explicit Block(ForkJoin& region) noexcept : region_(region) { acquire(region_.fork_); }
    ~Block() { release(region_.join_); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

   private:
    ForkJoin& region_;
  };

 private:
#if defined(DIRIGO_TSAN)
  static void acquire(char& event) noexcept {
    __tsan_acquire(&event);
  }
  static void release(char& event) noexcept {
    __tsan_release(&event);
  }
#else
  static void acquire(char& /*event*/) noexcept {}
  static void release(char& /*event*/) noexcept {}
#endif
  char fork_ = 0, join_ = 0;  // only their addresses matter
};

int resolve_threads(int requested) {
  if (requested < 0) {
    throw ValueError("[context] threads: expected 0 (automatic) or more, got " + std::to_string(requested));
  }
  if (requested == 0) requested = thread_limit().threads;
  // An arena larger than this makes oneTBB warn on stderr, and its threads would share processors.
  return std::min(requested, std::max(1, tbb::info::default_concurrency()));
}

}  // namespace

struct Context::Impl {
  explicit Impl(const Options& options)
      : threads(resolve_threads(options.threads)), isa(options.isa), kernels(kernel_table(options.isa)) {}

  int threads;
  Isa isa;
  const KernelTable<float>& kernels;
  std::shared_ptr<Allocator> allocator = std::make_shared<Allocator>();
  FlopCounter flops;
  tbb::task_arena arena{threads};  // takes no thread before its first use
};

Context::Context() : Context(Options{}) {}
Context::Context(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
Context::~Context() = default;

int Context::threads() const noexcept {
  return impl_->threads;
}
int Context::free_threads() const noexcept {
  return inside_block ? 1 : impl_->threads;
}
Isa Context::isa() const noexcept {
  return impl_->isa;
}
const std::shared_ptr<Allocator>& Context::allocator() const noexcept {
  return impl_->allocator;
}
FlopCounter& Context::flops() const noexcept {
  return impl_->flops;
}

template <>
const KernelTable<float>& Context::kernels<float>() const noexcept {
  return impl_->kernels;
}

template <>
const KernelTable<double>& Context::kernels<double>() const noexcept {
  return table_portable_double;
}

void Context::run_blocks(std::int64_t n, std::int64_t grain, Body body, Denormals denormals) const {
  if (n <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t blocks = (n - 1) / grain + 1;
  const auto run = [&](std::int64_t block) {
    const BlockScope scope(denormals == Denormals::flush);
    const std::int64_t begin = block * grain;
    body(begin, begin + std::min(grain, n - begin));
  };
  if (impl_->threads == 1 || blocks == 1 || inside_block) {
    for (std::int64_t block = 0; block < blocks; ++block) run(block);
    return;
  }
  ForkJoin region;
  impl_->arena.execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<std::int64_t>(0, blocks, 1),
        [&](const tbb::blocked_range<std::int64_t>& range) {
          const ForkJoin::Block scope(region);
          for (std::int64_t block = range.begin(); block < range.end(); ++block) run(block);
        },
        tbb::simple_partitioner{});
  });
}

}  // namespace dirigo
