#include "dirigo/core/shape.hpp"

#include <limits>

#include "dirigo/core/errors.hpp"

namespace dirigo {

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  if (extents.size() > std::size_t(max_rank)) {
    throw ShapeError("[shape] rank: expected at most " + std::to_string(max_rank) + ", got " +
                     std::to_string(extents.size()));
  }
  // A bound on the product keeps every later size and byte computation free of overflow.
  constexpr std::int64_t limit = std::numeric_limits<std::int64_t>::max() / 64;
  std::int64_t product = 1;
  for (const std::int64_t extent : extents) {
    if (extent < 0) {
      throw ShapeError("[shape] extent: expected a number >= 0, got " + std::to_string(extent));
    }
    if (extent > 0 && product > limit / extent) {
      throw ShapeError("[shape] size: expected fewer than 2^57 elements, got more");
    }
    product *= extent > 0 ? extent : 1;
    extents_[std::size_t(rank_++)] = extent;
  }
}

std::int64_t Shape::size() const noexcept {
  std::int64_t product = 1;
  for (int axis = 0; axis < rank_; ++axis) product *= extents_[std::size_t(axis)];
  return product;
}

namespace {
int checked_axis(int axis, int rank) {
  const int resolved = axis < 0 ? axis + rank : axis;
  if (resolved < 0 || resolved >= rank) {
    throw ShapeError("[shape] axis: expected one of a rank-" + std::to_string(rank) + " tensor, got " +
                     std::to_string(axis));
  }
  return resolved;
}
}  // namespace

std::int64_t Shape::operator[](int axis) const {
  return extents_[std::size_t(checked_axis(axis, rank_))];
}

Shape Shape::with(int axis, std::int64_t extent) const {
  auto extents = extents_;
  extents[std::size_t(checked_axis(axis, rank_))] = extent;
  return Shape(std::span<const std::int64_t>(extents.data(), std::size_t(rank_)));
}

bool Shape::operator==(const Shape& other) const noexcept {
  if (rank_ != other.rank_) return false;
  for (int axis = 0; axis < rank_; ++axis) {
    if (extents_[std::size_t(axis)] != other.extents_[std::size_t(axis)]) return false;
  }
  return true;
}

std::string Shape::to_string() const {
  std::string text = "(";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(extents_[std::size_t(axis)]);
  }
  return text + ")";
}

}  // namespace dirigo
