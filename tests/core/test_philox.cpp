#include <doctest/doctest.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "dirigo/core/errors.hpp"
#include "dirigo/core/philox.hpp"

using namespace dirigo;

namespace {

const RandomKey kKey = random_key(20240607, 3, Purpose::test, 5);

}  // namespace

TEST_CASE("philox4x32-10 gives the known answers of the Random123 distribution") {
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t ones = 0xffffffff;
  CHECK(philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
        PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a stream reads the blocks (element, draw, step, purpose) in the order of draw") {
  PhiloxStream stream(kKey, 17);
  for (std::uint32_t draw = 0; draw < 3; ++draw) {
    const PhiloxCounter block = philox4x32({17, draw, kKey.step, kKey.purpose}, {20240607, 0});
    for (int i = 0; i < 4; ++i) CHECK(stream.next_u32() == block[i]);
  }
  PhiloxStream wide(random_key(0x123456789abcdef0, 0, Purpose::init), 0);
  const PhiloxCounter block = philox4x32({0, 0, 0, 0}, {0x9abcdef0, 0x12345678});
  CHECK(wide.next_u64() == (std::uint64_t{block[1]} << 32 | block[0]));
}

TEST_CASE("seed, step, purpose, site and element each select another stream") {
  std::set<std::uint64_t> first_words;
  const auto add = [&](RandomKey key, std::uint32_t element) {
    first_words.insert(PhiloxStream(key, element).next_u64());
  };
  add(random_key(1, 2, Purpose::dropout, 3), 4);
  add(random_key(2, 2, Purpose::dropout, 3), 4);
  add(random_key(1 + (std::uint64_t{1} << 32), 2, Purpose::dropout, 3), 4);
  add(random_key(1, 3, Purpose::dropout, 3), 4);
  add(random_key(1, 2, Purpose::init, 3), 4);
  add(random_key(1, 2, Purpose::dropout, 4), 4);
  add(random_key(1, 2, Purpose::dropout, 3), 5);
  CHECK(first_words.size() == 7);
  CHECK(random_key(1, 2, Purpose::batch, 0x01000007).purpose == random_key(1, 2, Purpose::batch, 7).purpose);
}

TEST_CASE("uniform numbers: open interval, moments, no correlation of neighbours") {
  constexpr int n = 200000;
  PhiloxStream stream(kKey, 0);
  double sum = 0, squares = 0, products = 0, previous = 0.5, smallest = 1, largest = 0;
  for (int i = 0; i < n; ++i) {
    const double u = stream.uniform();
    smallest = std::min(smallest, u);
    largest = std::max(largest, u);
    sum += u;
    squares += (u - 0.5) * (u - 0.5);
    products += (u - 0.5) * (previous - 0.5);
    previous = u;
  }
  CHECK(smallest > 0.0);
  CHECK(largest < 1.0);
  CHECK(smallest < 1e-4);  // missed with probability e^-20
  CHECK(largest > 1.0 - 1e-4);
  // Four standard errors each (a false alarm of 6e-5; the seed is fixed).
  CHECK(std::fabs(sum / n - 0.5) < 4.0 / std::sqrt(12.0 * n));
  CHECK(std::fabs(squares / n - 1.0 / 12) < 4.0 / std::sqrt(180.0 * n));
  CHECK(std::fabs(products / n) < 4.0 / (12.0 * std::sqrt(double{n})));
}

TEST_CASE("normal numbers pass a Kolmogorov-Smirnov test and pairs are uncorrelated") {
  constexpr int n = 50000;
  PhiloxStream stream(kKey, 1);
  std::vector<double> values(n);
  double products = 0;
  for (int i = 0; i < n; ++i) {
    values[i] = stream.normal();
    if (i % 2 == 1) products += values[i] * values[i - 1];
  }
  CHECK(std::fabs(products / (n / 2)) < 4.0 / std::sqrt(n / 2.0));
  std::sort(values.begin(), values.end());
  double distance = 0;
  for (int i = 0; i < n; ++i) {
    const double cdf = 0.5 * std::erfc(-values[i] / std::sqrt(2.0));
    distance = std::max({distance, cdf - i / double{n}, (i + 1) / double{n} - cdf});
  }
  CHECK(distance * std::sqrt(double{n}) < 1.95);  // a false alarm of 0.1%
}

TEST_CASE("bounded integers cover their range evenly") {
  PhiloxStream stream(kKey, 2);
  std::array<int, 7> counts{};
  constexpr int n = 70000;
  for (int i = 0; i < n; ++i) {
    const std::uint64_t value = stream.below(7);
    REQUIRE(value < 7);
    ++counts[value];
  }
  double chi_squared = 0;
  for (const int count : counts) chi_squared += (count - n / 7.0) * (count - n / 7.0) / (n / 7.0);
  CHECK(chi_squared < 22.46);  // 6 degrees of freedom, 0.1%
  // For 3 * 2^62 a plain remainder would return values below 2^62 half of the time instead of a third.
  const std::uint64_t bound = std::uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += stream.below(bound) < (std::uint64_t{1} << 62) ? 1 : 0;
  CHECK(std::abs(low - 10000) < 4 * 82);
  CHECK(stream.below(1) == 0);
  CHECK_THROWS_AS(stream.below(0), ValueError);
}

TEST_CASE("bulk draws do not depend on how the range is split") {
  std::vector<float> whole(1001), pieces(1001);
  const auto check = [&](auto fill) {
    fill(kKey, 0u, std::span<float>(whole));
    std::size_t start = 0;
    for (const std::size_t length : {4, 96, 400, 12, 489}) {
      fill(kKey, static_cast<std::uint32_t>(start / 4), std::span<float>(pieces).subspan(start, length));
      start += length;
    }
    CHECK(start == whole.size());
    CHECK(whole == pieces);
  };
  check(philox_uniform);
  check(philox_normal);
}

TEST_CASE("bulk uniforms lie in the open interval and bulk normals have the right moments") {
  constexpr std::size_t n = 1 << 18;
  std::vector<float> values(n);
  philox_uniform(kKey, 0, values);
  CHECK(*std::min_element(values.begin(), values.end()) > 0.0f);
  CHECK(*std::max_element(values.begin(), values.end()) < 1.0f);
  double sum = 0;
  for (const float value : values) sum += value;
  CHECK(std::fabs(sum / n - 0.5) < 4.0 / std::sqrt(12.0 * n));
  const PhiloxCounter block = philox4x32({1, 0, kKey.step, kKey.purpose}, {20240607, 0});
  for (std::size_t i = 0; i < 4; ++i) CHECK(values[4 + i] == (float(block[i] >> 9) + 0.5f) * 0x1p-23f);

  philox_normal(kKey, 0, values);
  sum = 0;
  double squares = 0, fourth = 0;
  for (const float value : values) {
    const double square = double{value} * value;
    sum += value;
    squares += square;
    fourth += square * square;
  }
  CHECK(std::fabs(sum / n) < 4.0 / std::sqrt(double{n}));
  CHECK(std::fabs(squares / n - 1.0) < 4.0 * std::sqrt(2.0 / n));
  CHECK(std::fabs(fourth / n - 3.0) < 4.0 * std::sqrt(96.0 / n));
}
