#include "dirigo/core/tensor.hpp"

#include <algorithm>
#include <cstring>

namespace dirigo {

std::string_view dtype_name(DType dtype) noexcept {
  return dtype == DType::f32 ? "f32" : "f64";
}
std::size_t dtype_bytes(DType dtype) noexcept {
  return dtype == DType::f32 ? 4 : 8;
}

struct Tensor::Storage {
  Storage(std::shared_ptr<Allocator> owner, std::size_t size)
      : allocator(std::move(owner)), bytes(size), block(allocator->allocate(size)) {}
  ~Storage() { allocator->release(block, bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::shared_ptr<Allocator> allocator;
  std::size_t bytes;
  void* block;
};

namespace {

// Puts the bookkeeping of a storage into the same caching allocator, so that a steady state allocates
// nothing.
template <class T>
struct CachedAllocation {
  using value_type = T;
  std::shared_ptr<Allocator> allocator;

  explicit CachedAllocation(std::shared_ptr<Allocator> source) : allocator(std::move(source)) {}
  template <class U>
  explicit CachedAllocation(const CachedAllocation<U>& other) : allocator(other.allocator) {}

  T* allocate(std::size_t n) { return static_cast<T*>(allocator->allocate(n * sizeof(T))); }
  void deallocate(T* block, std::size_t n) noexcept { allocator->release(block, n * sizeof(T)); }
  template <class U>
  bool operator==(const CachedAllocation<U>& other) const noexcept {
    return allocator == other.allocator;
  }
};

std::array<std::int64_t, Shape::max_rank> row_major_strides(const Shape& shape) {
  std::array<std::int64_t, Shape::max_rank> strides{};
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[std::size_t(axis)] = step;
    step *= shape[axis];
  }
  return strides;
}

// Calls visit(offset) for every element in row-major order.
template <class Visit>
void for_each_offset(const Shape& shape, const std::array<std::int64_t, Shape::max_rank>& strides,
                     Visit visit) {
  const std::int64_t size = shape.size();
  std::array<std::int64_t, Shape::max_rank> index{};
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    visit(offset);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto a = std::size_t(axis);
      offset += strides[a];
      if (++index[a] < shape[axis]) break;
      offset -= index[a] * strides[a];
      index[a] = 0;
    }
  }
}

[[noreturn]] void throw_dtype(DType wanted, DType got) {
  throw ShapeError("[tensor] dtype: expected " + std::string(dtype_name(wanted)) + ", got " +
                   std::string(dtype_name(got)));
}

}  // namespace

std::shared_ptr<Tensor::Storage> Tensor::make_storage(const Context& context, std::size_t bytes) {
  return std::allocate_shared<Storage>(CachedAllocation<Storage>(context.allocator()), context.allocator(),
                                       bytes);
}

Tensor Tensor::empty(const Context& context, const Shape& shape, DType dtype) {
  Tensor result;
  result.storage_ = make_storage(context, std::size_t(shape.size()) * dtype_bytes(dtype));
  result.data_ = static_cast<std::byte*>(result.storage_->block);
  result.shape_ = shape;
  result.strides_ = row_major_strides(shape);
  result.dtype_ = dtype;
  return result;
}

Tensor Tensor::zeros(const Context& context, const Shape& shape, DType dtype) {
  Tensor result = empty(context, shape, dtype);
  if (result.size() > 0) std::memset(result.data_, 0, std::size_t(shape.size()) * dtype_bytes(dtype));
  return result;
}

Tensor Tensor::full(const Context& context, const Shape& shape, double value, DType dtype) {
  Tensor result = empty(context, shape, dtype);
  result.fill(value);
  return result;
}

template <class T>
Tensor Tensor::from(const Context& context, const Shape& shape, std::span<const T> values) {
  if (std::int64_t(values.size()) != shape.size()) {
    throw ShapeError("[tensor] values: expected " + std::to_string(shape.size()) + " for shape " +
                     shape.to_string() + ", got " + std::to_string(values.size()));
  }
  Tensor result = empty(context, shape, dtype_of<T>);
  std::copy(values.begin(), values.end(), result.data<T>());
  return result;
}

std::int64_t Tensor::stride(int axis) const {
  const int resolved = axis < 0 ? axis + rank() : axis;
  (void)shape_[axis];  // checks the range
  return strides_[std::size_t(resolved)];
}

bool Tensor::is_contiguous() const noexcept {
  std::int64_t step = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    const std::int64_t extent = shape_.extents()[std::size_t(axis)];
    if (extent != 1 && strides_[std::size_t(axis)] != step) return size() == 0;
    step *= extent;
  }
  return true;
}

template <class T>
T* Tensor::data() {
  if (dtype_ != dtype_of<T>) throw_dtype(dtype_of<T>, dtype_);
  return reinterpret_cast<T*>(data_);
}

template <class T>
const T* Tensor::data() const {
  if (dtype_ != dtype_of<T>) throw_dtype(dtype_of<T>, dtype_);
  return reinterpret_cast<const T*>(data_);
}

template <class T>
std::span<T> Tensor::span() {
  if (!is_contiguous()) throw ShapeError("[tensor] span: expected a row-major tensor, got a strided view");
  return {data<T>(), std::size_t(size())};
}

template <class T>
std::span<const T> Tensor::span() const {
  if (!is_contiguous()) throw ShapeError("[tensor] span: expected a row-major tensor, got a strided view");
  return {data<T>(), std::size_t(size())};
}

double Tensor::item() const {
  if (size() != 1) throw ShapeError("[tensor] item: expected one element, got shape " + shape_.to_string());
  return visit_dtype(dtype_, [&](auto zero) { return double(*data<decltype(zero)>()); });
}

double Tensor::at(std::initializer_list<std::int64_t> index) const {
  if (int(index.size()) != rank()) {
    throw ShapeError("[tensor] index: expected " + std::to_string(rank()) + " numbers, got " +
                     std::to_string(index.size()));
  }
  std::int64_t offset = 0;
  int axis = 0;
  for (const std::int64_t i : index) {
    if (i < 0 || i >= shape_[axis]) {
      throw ShapeError("[tensor] index: expected one inside " + shape_.to_string() + ", got " +
                       std::to_string(i) + " on axis " + std::to_string(axis));
    }
    offset += i * strides_[std::size_t(axis++)];
  }
  return visit_dtype(dtype_, [&](auto zero) { return double(data<decltype(zero)>()[offset]); });
}

std::vector<double> Tensor::to_vector() const {
  std::vector<double> values;
  values.reserve(std::size_t(size()));
  visit_dtype(dtype_, [&](auto zero) {
    const auto* source = data<decltype(zero)>();
    for_each_offset(shape_, strides_, [&](std::int64_t offset) { values.push_back(double(source[offset])); });
  });
  return values;
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.size() != size()) {
    throw ShapeError("[tensor] reshape: expected " + std::to_string(size()) + " elements, got shape " +
                     shape.to_string());
  }
  if (!is_contiguous()) throw ShapeError("[tensor] reshape: expected a row-major tensor, got a strided view");
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = row_major_strides(shape);
  return view;
}

Tensor Tensor::transpose(int axis_a, int axis_b) const {
  const std::int64_t extent_a = shape_[axis_a], extent_b = shape_[axis_b];
  Tensor view = *this;
  view.shape_ = shape_.with(axis_a, extent_b).with(axis_b, extent_a);
  const auto a = std::size_t(axis_a < 0 ? axis_a + rank() : axis_a);
  const auto b = std::size_t(axis_b < 0 ? axis_b + rank() : axis_b);
  std::swap(view.strides_[a], view.strides_[b]);
  return view;
}

Tensor Tensor::slice(int axis, std::int64_t begin, std::int64_t end) const {
  if (begin < 0 || end < begin || end > shape_[axis]) {
    throw ShapeError("[tensor] slice: expected 0 <= begin <= end <= " + std::to_string(shape_[axis]) +
                     ", got [" + std::to_string(begin) + ", " + std::to_string(end) + ")");
  }
  Tensor view = *this;
  view.shape_ = shape_.with(axis, end - begin);
  view.data_ += begin * stride(axis) * std::int64_t(dtype_bytes(dtype_));
  return view;
}

Tensor Tensor::contiguous(const Context& context) const {
  return is_contiguous() ? *this : clone(context);
}

Tensor Tensor::clone(const Context& context) const {
  Tensor copy = empty(context, shape_, dtype_);
  visit_dtype(dtype_, [&](auto zero) {
    using T = decltype(zero);
    const T* source = data<T>();
    T* target = copy.data<T>();
    if (is_contiguous()) {
      std::copy(source, source + size(), target);
    } else {
      for_each_offset(shape_, strides_, [&](std::int64_t offset) { *target++ = source[offset]; });
    }
  });
  return copy;
}

Tensor Tensor::cast(const Context& context, DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor copy = empty(context, shape_, dtype);
  visit_dtype(dtype_, [&](auto from_zero) {
    visit_dtype(dtype, [&](auto to_zero) {
      using To = decltype(to_zero);
      const auto* source = data<decltype(from_zero)>();
      To* target = copy.data<To>();
      const auto convert = [](auto value) { return To(value); };
      if (is_contiguous()) {
        std::transform(source, source + size(), target, convert);
      } else {
        for_each_offset(shape_, strides_, [&](std::int64_t offset) { *target++ = convert(source[offset]); });
      }
    });
  });
  return copy;
}

void Tensor::copy_from(const Tensor& source) {
  if (source.shape_ != shape_ || source.dtype_ != dtype_ || !is_contiguous() || !source.is_contiguous()) {
    throw ShapeError("[tensor] copy_from: expected a row-major " + std::string(dtype_name(dtype_)) + " " +
                     shape_.to_string() + ", got " + std::string(dtype_name(source.dtype_)) + " " +
                     source.shape_.to_string());
  }
  if (size() > 0) std::memmove(data_, source.data_, std::size_t(size()) * dtype_bytes(dtype_));
}

void Tensor::fill(double value) {
  visit_dtype(dtype_, [&](auto zero) {
    using T = decltype(zero);
    T* target = data<T>();
    if (is_contiguous()) {
      std::fill_n(target, size(), T(value));
    } else {
      for_each_offset(shape_, strides_, [&](std::int64_t offset) { target[offset] = T(value); });
    }
  });
}

template Tensor Tensor::from<float>(const Context&, const Shape&, std::span<const float>);
template Tensor Tensor::from<double>(const Context&, const Shape&, std::span<const double>);
template float* Tensor::data<float>();
template double* Tensor::data<double>();
template const float* Tensor::data<float>() const;
template const double* Tensor::data<double>() const;
template std::span<float> Tensor::span<float>();
template std::span<double> Tensor::span<double>();
template std::span<const float> Tensor::span<float>() const;
template std::span<const double> Tensor::span<double>() const;

}  // namespace dirigo
