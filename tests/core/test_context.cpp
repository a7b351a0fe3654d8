#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/kernels.hpp"

using namespace dirigo;

namespace {

// Sets an environment variable for the duration of a scope.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* const old = std::getenv(name);
    had_ = old != nullptr;
    if (had_) old_ = old;
    setenv(name, value, 1);
  }
  ~Environment() {
    if (had_) {
      setenv(name_, old_.c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string old_;
  bool had_;
};

// Half of the smallest normal T, computed now: 0 where denormals are flushed.
template <class T>
T denormal() {
  volatile T smallest = std::numeric_limits<T>::min();
  volatile T half = smallest * T(0.5);
  return half;
}

}  // namespace

TEST_CASE("parallel_for covers every index once, in blocks that depend on n and grain alone") {
  for (const int threads : {1, 2, 3, 4}) {
    const Context context({.threads = threads});
    CHECK(context.threads() >= 1);
    CHECK(context.threads() <= threads);
    for (const std::int64_t n : {0, 1, 7, 64, 1000}) {
      for (const std::int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
        std::atomic<bool> aligned{true};
        std::mutex mutex;
        std::set<std::thread::id> workers;
        context.parallel_for<float>(n, grain, [&](std::int64_t begin, std::int64_t end) {
          if (begin % grain != 0 || (end != n && end != begin + grain)) aligned = false;
          for (std::int64_t i = begin; i < end; ++i) ++visits[std::size_t(i)];
          const std::lock_guard lock(mutex);
          workers.insert(std::this_thread::get_id());
        });
        bool once = true;
        for (const auto& count : visits) once = once && count == 1;
        CHECK(once);
        CHECK(aligned);
        CHECK(workers.size() <= std::size_t(context.threads()));
      }
    }
  }
}

TEST_CASE("parallel_for rethrows, and works again afterwards") {
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    CHECK_THROWS_WITH_AS(context.parallel_for<float>(100, 1,
                                                     [](std::int64_t begin, std::int64_t) {
                                                       if (begin == 42) throw std::runtime_error("forty-two");
                                                     }),
                         "forty-two", std::runtime_error);
    std::atomic<int> visits{0};
    context.parallel_for<float>(100, 1, [&](std::int64_t, std::int64_t) { ++visits; });
    CHECK(visits == 100);
  }
}

TEST_CASE("nested regions run serially on the thread that reached them") {
  const Context context({.threads = 2});
  std::atomic<int> visits{0};
  std::atomic<bool> same_thread{true};
  context.parallel_for<float>(8, 1, [&](std::int64_t, std::int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    std::int64_t expected = 0;
    context.parallel_for<float>(10, 2, [&](std::int64_t begin, std::int64_t) {
      if (std::this_thread::get_id() != outer || begin != expected) same_thread = false;
      expected += 2;
      ++visits;
    });
  });
  CHECK(visits == 40);
  CHECK(same_thread);
}

TEST_CASE_TEMPLATE("denormals: float regions flush them, double regions and the caller keep them", T, float,
                   double) {
  constexpr bool flushes = std::is_same_v<T, float>;
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    CHECK(denormal<T>() > 0);
    for (const std::int64_t blocks : {1, 16}) {
      std::atomic<int> flushed{0};
      context.parallel_for<T>(blocks, 1, [&](std::int64_t, std::int64_t) { flushed += denormal<T>() == 0; });
      CHECK(flushed == (flushes ? blocks : 0));
      CHECK(denormal<T>() > 0);
      CHECK_THROWS(
          context.parallel_for<T>(blocks, 1, [](std::int64_t, std::int64_t) { throw std::bad_alloc(); }));
      CHECK(denormal<T>() > 0);
    }
  }
}

TEST_CASE("denormals: a nested region has its own mode and gives the outer one back") {
  for (const int threads : {1, 2}) {
    const Context context({.threads = threads});
    std::atomic<int> kept{0}, flushed{0};
    context.parallel_for<float>(16, 1, [&](std::int64_t, std::int64_t) {
      context.parallel_for<double>(2, 1, [&](std::int64_t, std::int64_t) {
        kept += denormal<double>() > 0;
        context.parallel_for<float>(1, 1,
                                    [&](std::int64_t, std::int64_t) { flushed += denormal<float>() == 0; });
        kept += denormal<double>() > 0;
      });
      flushed += denormal<float>() == 0;
    });
    CHECK(kept == 64);
    CHECK(flushed == 48);
    CHECK(denormal<float>() > 0);
  }
}

TEST_CASE("several host threads may share a context") {
  const Context context({.threads = 2});
  std::atomic<int> visits{0};
  std::vector<std::thread> hosts;
  for (int t = 0; t < 3; ++t) {
    hosts.emplace_back([&] {
      for (int i = 0; i < 20; ++i)
        context.parallel_for<float>(10, 1, [&](std::int64_t, std::int64_t) { ++visits; });
    });
  }
  for (std::thread& host : hosts) host.join();
  CHECK(visits == 600);
}

TEST_CASE("options are validated") {
  CHECK_THROWS_WITH_AS(Context({.threads = -1}), "[context] threads: expected 0 (automatic) or more, got -1",
                       ValueError);
  const ThreadLimit limit = thread_limit();
  CHECK(limit.threads >= 1);
  CHECK_FALSE(limit.decided_by.empty());
  CHECK(Context({.threads = 0}).threads() <= limit.threads);
}

TEST_CASE("instruction sets: names, forcing and errors") {
  const std::vector<Isa> isas = available_isas();
  REQUIRE_FALSE(isas.empty());
  CHECK(isas.front() == Isa::portable);
  std::set<const KernelTable<float>*> tables;
  for (const Isa isa : isas) {
    const std::string name(isa_name(isa));
    CHECK(parse_isa(name) == isa);
    const Environment forced("DIRIGO_ISA", name.c_str());
    CHECK(choose_isa() == isa);
    const Context context;
    CHECK(context.isa() == isa);
    tables.insert(&context.kernels<float>());
  }
  CHECK(tables.size() == isas.size());
  {
    const Environment automatic("DIRIGO_ISA", "");
    CHECK(choose_isa() == isas.back());
  }
  const Environment wrong("DIRIGO_ISA", "mmx");
  CHECK_THROWS_AS(choose_isa(), ValueError);
  try {
    parse_isa("mmx");
  } catch (const ValueError& error) {
    CHECK(std::string(error.what()).find(std::string(isa_name(Isa::portable))) != std::string::npos);
    CHECK(std::string(error.what()).find("'mmx'") != std::string::npos);
  }
}
