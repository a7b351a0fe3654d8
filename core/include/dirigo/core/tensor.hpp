// Tensor: a cheap value handle on shared, 64-byte-aligned storage, with a shape, strides and a dtype.
//
// Copying a Tensor copies the handle: both see the same elements. Views (reshape, transpose, slice) share the
// storage too. Tensors are row-major unless they are views. Reading from several threads is safe; writing
// while others read is not.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "dirigo/core/context.hpp"
#include "dirigo/core/errors.hpp"
#include "dirigo/core/shape.hpp"

namespace dirigo {

enum class DType : std::uint8_t { f32, f64 };

std::string_view dtype_name(DType dtype) noexcept;  // "f32", "f64"
std::size_t dtype_bytes(DType dtype) noexcept;      // 4, 8

template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<double> = DType::f64;

// Calls f(T{}) with T = float or double: `visit_dtype(x.dtype(), [&](auto zero) { using T = decltype(zero);
// })`.
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  return dtype == DType::f32 ? f(float{}) : f(double{});
}

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage

  // New row-major tensors. Throw ShapeError for an impossible shape and std::bad_alloc.
  static Tensor empty(const Context& context, const Shape& shape, DType dtype = DType::f32);
  static Tensor zeros(const Context& context, const Shape& shape, DType dtype = DType::f32);
  static Tensor full(const Context& context, const Shape& shape, double value, DType dtype = DType::f32);
  // A copy of `values` (row-major). Throws ShapeError when their number differs from shape.size().
  template <class T>
  static Tensor from(const Context& context, const Shape& shape, std::span<const T> values);

  bool defined() const noexcept { return storage_ != nullptr; }
  // Whether no other tensor shares the storage, so that writing to it changes nothing else.
  bool unique() const noexcept { return storage_.use_count() == 1; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  std::int64_t size() const noexcept { return shape_.size(); }
  int rank() const noexcept { return shape_.rank(); }
  // Distance, in elements, between neighbours along an axis (negative axes count from the end).
  std::int64_t stride(int axis) const;
  bool is_contiguous() const noexcept;

  // The first element. Throws ShapeError when T is not the dtype. Only for contiguous walks if
  // is_contiguous().
  template <class T>
  T* data();
  template <class T>
  const T* data() const;
  // All elements of a contiguous tensor. Throws ShapeError for another dtype or a strided view.
  template <class T>
  std::span<T> span();
  template <class T>
  std::span<const T> span() const;

  // The value of a one-element tensor as double.
  double item() const;
  // Any element by its index, as double: slow, for tests and printing.
  double at(std::initializer_list<std::int64_t> index) const;
  // All elements in row-major order as double: slow, for tests and printing.
  std::vector<double> to_vector() const;

  // Views. reshape throws ShapeError when sizes differ or the tensor is not contiguous.
  Tensor reshape(const Shape& shape) const;
  Tensor transpose(int axis_a, int axis_b) const;
  Tensor slice(int axis, std::int64_t begin, std::int64_t end) const;

  // This tensor if row-major, else a row-major copy.
  Tensor contiguous(const Context& context) const;
  Tensor clone(const Context& context) const;              // a row-major copy
  Tensor cast(const Context& context, DType dtype) const;  // this, or a converted row-major copy
  // Overwrites all elements with those of `source` (same shape and dtype, both contiguous).
  void copy_from(const Tensor& source);
  void fill(double value);

 private:
  struct Storage;
  static std::shared_ptr<Storage> make_storage(const Context& context, std::size_t bytes);

  std::shared_ptr<Storage> storage_;
  std::byte* data_ = nullptr;  // first element of this view
  Shape shape_;
  std::array<std::int64_t, Shape::max_rank> strides_{};
  DType dtype_ = DType::f32;
};

}  // namespace dirigo
