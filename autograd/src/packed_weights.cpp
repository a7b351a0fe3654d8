#include "dirigo/autograd/packed_weights.hpp"

#include "dirigo/core/product.hpp"

namespace dirigo {

template <class T>
const T* PackedWeights::panels(const Context& context, const Tensor& weight, Side side) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[{weight.data<T>(), side}];
  if (!entry.panels.defined()) {
    const std::int64_t out = weight.shape()[0], in = weight.shape()[1];
    const bool transposed = side == Side::transposed;
    const std::int64_t k = transposed ? in : out, n = transposed ? out : in;
    Tensor panels = Tensor::empty(context, Shape{panels_size(k, n)}, weight.dtype());
    pack_panels<T>(context, k, n, weight.data<T>(), transposed ? 1 : in, transposed ? in : 1,
                   panels.data<T>());
    entry = {weight, panels};
  }
  return std::as_const(entry.panels).data<T>();
}

template const float* PackedWeights::panels<float>(const Context&, const Tensor&, Side);
template const double* PackedWeights::panels<double>(const Context&, const Tensor&, Side);

}  // namespace dirigo
