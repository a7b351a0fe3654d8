// SHA-256 (FIPS 180-4), so that a run can name exactly the bytes it was trained on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dirigo {

// Streaming hash: any number of `update` calls, then one `hex_digest`.
class Sha256 {
 public:
  void update(std::span<const std::uint8_t> bytes);

  // The digest of everything so far as 64 lower-case hexadecimal digits. The object may go on being updated.
  std::string hex_digest() const;

 private:
  void compress(const std::uint8_t* block);
  void finish();

  // Initial value: the first 32 bits of the fractional parts of the square roots of the first eight primes.
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::uint64_t length_ = 0;  // bytes so far; the last length_ % 64 of them wait in pending_
};

std::string sha256_hex(std::span<const std::uint8_t> bytes);

}  // namespace dirigo
