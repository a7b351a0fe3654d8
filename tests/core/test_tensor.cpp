// Tensor: filling and converting, row-major and through strided views.
#include <doctest/doctest.h>

#include <vector>

#include "dirigo/core/tensor.hpp"

using namespace dirigo;
using Values = std::vector<double>;

TEST_CASE("fill writes every element of a tensor, and of a view no other") {
  const Context context({.threads = 1});
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tensor x = Tensor::full(context, {2, 3}, 1.5, dtype);
    CHECK(x.to_vector() == Values(6, 1.5));
    Tensor column = x.slice(1, 1, 2);
    column.fill(-2);
    CHECK(x.to_vector() == Values{1.5, -2, 1.5, 1.5, -2, 1.5});
    Tensor row = x.slice(0, 1, 2);
    row.fill(7);
    CHECK(x.to_vector() == Values{1.5, -2, 1.5, 7, 7, 7});
    Tensor none = x.slice(1, 3, 3);
    none.fill(9);
    CHECK(x.to_vector() == Values{1.5, -2, 1.5, 7, 7, 7});
  }
}

TEST_CASE("cast converts in row-major order, strided views too, and shares nothing") {
  const Context context({.threads = 1});
  const Values values = {0.1, 2, -3, 4, 5, 6e-300};
  const Tensor x = Tensor::from<double>(context, {2, 3}, values);
  Values rounded;
  for (const double value : values) rounded.push_back(double(float(value)));
  CHECK(x.cast(context, DType::f32).to_vector() == rounded);
  const Tensor turned = x.transpose(0, 1).cast(context, DType::f32);
  CHECK(turned.shape() == Shape{3, 2});
  CHECK(turned.is_contiguous());
  CHECK(turned.to_vector() == Values{rounded[0], rounded[3], rounded[1], rounded[4], rounded[2], rounded[5]});
  Tensor back = turned.cast(context, DType::f64);
  CHECK(back.to_vector() == turned.to_vector());
  back.fill(0);
  CHECK(turned.to_vector().front() == rounded.front());
}
