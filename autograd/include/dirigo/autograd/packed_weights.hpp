// Weights in the layout that products read fastest, packed once and used by many: the sequences of a training
// step meet the same weights, on any number of tapes and threads.
#pragma once

#include <map>
#include <mutex>
#include <utility>

#include "dirigo/core/tensor.hpp"

namespace dirigo {

// Hand it to tapes by Tape::use. It may live only as long as the weights keep their values: make one per
// step, before the first forward pass, and let it go before the optimiser writes. Safe to use from several
// threads.
class PackedWeights {
 public:
  enum class Side { weight, transposed };  // B of dY W, or of X W^T

  // The panels (pack_panels of core/product.hpp) of a row-major `weight` (out, in) or of its transpose:
  // packed by the first call on the calling thread, the same pointer ever after. Throws std::bad_alloc.
  template <class T>
  const T* panels(const Context& context, const Tensor& weight, Side side);

 private:
  struct Entry {
    Tensor weight;  // held, so that no other tensor can get its address
    Tensor panels;
  };
  std::mutex mutex_;
  std::map<std::pair<const void*, Side>, Entry> entries_;
};

extern template const float* PackedWeights::panels<float>(const Context&, const Tensor&, Side);
extern template const double* PackedWeights::panels<double>(const Context&, const Tensor&, Side);

}  // namespace dirigo
