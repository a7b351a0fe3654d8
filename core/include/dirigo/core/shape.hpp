// Shape: the extents of a tensor, held inline (no allocation), at most six of them.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace dirigo {

class Shape {
 public:
  static constexpr int max_rank = 6;

  Shape() = default;                                      // rank 0: a scalar
  Shape(std::initializer_list<std::int64_t> extents);     // throws ShapeError: rank > 6, extent < 0, overflow
  explicit Shape(std::span<const std::int64_t> extents);  // the same

  int rank() const noexcept { return rank_; }
  // The number of elements: the product of the extents (1 for a scalar).
  std::int64_t size() const noexcept;
  // Extent of an axis; a negative axis counts from the end. Throws ShapeError outside [-rank, rank).
  std::int64_t operator[](int axis) const;
  std::span<const std::int64_t> extents() const noexcept { return {extents_.data(), std::size_t(rank_)}; }

  // The same shape with one extent replaced.
  Shape with(int axis, std::int64_t extent) const;

  bool operator==(const Shape& other) const noexcept;

  // "(2, 3)"
  std::string to_string() const;

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

}  // namespace dirigo
