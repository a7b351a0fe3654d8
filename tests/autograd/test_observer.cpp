// What an observer of a tape is told.
#include <doctest/doctest.h>

#include <string>

#include "dirigo/autograd/ops.hpp"

using namespace dirigo;

namespace {

class Log : public TapeObserver {
 public:
  void recorded(std::string_view name, std::span<const Variable> inputs,
                std::span<const std::int32_t> input_nodes, const Tensor& value) override {
    text += std::string(name) + "(";
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (i > 0) text += ",";
      text += inputs[i].defined() ? std::to_string(input_nodes[i]) : "absent";
    }
    text += ")=" + value.shape().to_string() + " ";
  }
  void passed(std::int32_t node, const Tensor& gradient) override {
    text += std::to_string(node) + ":" + std::to_string(int(gradient.to_vector()[0])) + " ";
  }
  std::string text;
};

}  // namespace

TEST_CASE("tape: an observer sees every node as it is recorded, and its complete gradient") {
  const Context context;
  Log log;
  Tape tape(context);
  tape.observe(&log);
  Tensor sink = Tensor::full(context, {1}, 100, DType::f64);
  const Variable x = tape.leaf(Tensor::full(context, {1}, 3, DType::f64));
  const Variable w = tape.leaf(Tensor::full(context, {1}, 5, DType::f64), &sink);
  const Variable unused = tape.leaf(Tensor::full(context, {1}, 1, DType::f64));
  const Variable c = tape.constant(Tensor::full(context, {1}, 7, DType::f64));
  const Variable squared = ops::multiply(x, x);
  const Variable y = ops::add(squared, ops::multiply(w, c));  // x^2 + 7 w
  CHECK(log.text == "leaf()=(1) leaf()=(1) leaf()=(1) multiply(0,0)=(1) multiply(1,-1)=(1) add(3,4)=(1) ");
  log.text.clear();
  tape.backward(y);
  CHECK(log.text == "5:1 4:1 3:1 1:107 0:6 ");  // the unused leaf is not reached
  CHECK(unused.defined());

  tape.clear();
  log.text.clear();
  tape.observe(nullptr);
  tape.leaf(Tensor::full(context, {1}, 3, DType::f64));
  CHECK(log.text.empty());
}
