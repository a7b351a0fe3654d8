// The random generator's known answers, and results that do not depend on the number of threads.
#include <functional>

#include "audit/areas.hpp"
#include "audit/checks.hpp"
#include "audit/small_model.hpp"
#include "dirigo/autograd/ops.hpp"

namespace dirigo::tools {
namespace {

constexpr const char* philox_file = "core/include/dirigo/core/philox.hpp";
constexpr const char* section = "4 Sampling";

// The vectors that the authors publish with Random123 (kat_vectors, philox4x32 10): zeros, ones, digits of
// pi.
double known_answer_faults() {
  struct Answer {
    PhiloxCounter counter;
    PhiloxKey key;
    PhiloxCounter result;
  };
  constexpr std::uint32_t ones = 0xffffffff;
  constexpr Answer answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{ones, ones, ones, ones}, {ones, ones}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  double faults = 0;
  for (const Answer& answer : answers) faults += philox4x32(answer.counter, answer.key) != answer.result;
  return faults;
}

// Words of streams and bulk draws that are not those of the blocks (element, draw, step, purpose).
double addressing_faults() {
  const RandomKey key = random_key(0x123456789abcdef0, 3, Purpose::test, 5);
  const PhiloxKey words_key{0x9abcdef0, 0x12345678};
  double faults = 0;
  for (const std::uint32_t element : {0U, 17U, 0xffffffffU}) {
    PhiloxStream stream(key, element);
    for (std::uint32_t draw = 0; draw < 5; ++draw) {
      for (const std::uint32_t word : philox4x32({element, draw, key.step, key.purpose}, words_key))
        faults += stream.next_u32() != word;
    }
  }
  std::vector<float> bulk(103);
  philox_uniform(key, 9, bulk);
  for (std::size_t i = 0; i < bulk.size(); ++i) {
    const PhiloxCounter block = philox4x32({9 + std::uint32_t(i / 4), 0, key.step, key.purpose}, words_key);
    const double exact = double(block[i % 4]) * 0x1p-32;
    faults += !(bulk[i] > 0 && bulk[i] < 1 && std::abs(double(bulk[i]) - exact) <= 0x1p-23);
  }
  // A range filled in pieces that start at multiples of 4.
  std::vector<float> whole(103), pieces(103);
  for (const auto fill : {philox_uniform, philox_normal}) {
    fill(key, 9, whole);
    fill(key, 9, std::span(pieces).first(40));
    fill(key, 19, std::span(pieces).subspan(40));
    faults += different_bits<float>(whole, pieces);
  }
  return faults;
}

// One value per element of what a computation leaves behind.
using Computation = std::function<std::vector<float>(const Context&)>;

void append(std::vector<float>& values, const Tensor& x) {
  const auto elements = x.span<float>();
  values.insert(values.end(), elements.begin(), elements.end());
}

// Loss and gradients of a training step with sampled routing and dropout.
std::vector<float> training_step(const Context& context, meta::Projections projections) {
  meta::Config config = small_model_config(projections, meta::RouterKind::bayes);
  config.train.sampling = meta::Sampling::posterior;
  config.train.dropout = 0.1;
  config.train.dropout_sites = meta::DropoutSites::all;
  meta::LanguageModel model(context, config, small_vocabulary, 3);
  stir(model);
  constexpr std::int64_t batch = 8, length = 40;
  const auto text = small_text(batch * length, 9), targets = small_text(batch * length, 10);
  Tape tape(context);
  meta::ForwardOptions options;
  options.training = true;
  options.seed = 4;
  options.step = 7;
  const meta::Forward forward = model(tape, text, batch, length, options);
  const meta::Loss loss = meta::objective(model, forward, targets, config.objective, 0.1);
  tape.backward(loss.total);
  std::vector<float> values;
  append(values, loss.total.value());
  append(values, forward.logits.value());
  for (const auto& named : model.parameters()) append(values, named.parameter->gradient);
  return values;
}

// Products and reductions that are cut into many blocks.
std::vector<float> large_operations(const Context& context) {
  Tape tape(context);
  const Variable x = tape.leaf(normal_tensor(context, {700, 90}, 1, DType::f32));
  const Variable w = tape.leaf(normal_tensor(context, {310, 90}, 2, DType::f32));
  const Variable bias = tape.leaf(normal_tensor(context, {310}, 3, DType::f32));
  const Variable y = ops::softmax(ops::gelu(ops::linear(x, w, bias)));
  tape.backward(y, normal_tensor(context, {700, 310}, 4, DType::f32));
  std::vector<float> values;
  for (const Tensor& part : {y.value(), tape.gradient(x), tape.gradient(w), tape.gradient(bias)})
    append(values, part);
  return values;
}

double thread_faults(Isa isa, const Computation& compute) {
  const Context one({.threads = 1, .isa = isa});
  const std::vector<float> expected = compute(one);
  double different = 0;
  for (const int threads : {2, 3, 4}) {
    const Context several({.threads = threads, .isa = isa});
    different += different_bits<float>(compute(several), expected);
  }
  return different;
}

std::vector<Claim> philox_claims(const Context&) {
  return {{"random/philox: known answers", "the published test vectors of Philox4x32-10",
           known_answer_faults(), 0, philox_file, section},
          {"random/philox: addressing", "words that differ from the block of (element, draw, step, purpose)",
           addressing_faults(), 0, philox_file, section}};
}

std::vector<Claim> thread_claims(const Context& context) {
  const std::string how = "values whose bits differ on 2, 3 or 4 threads from those on 1: ";
  const auto claim = [&](const std::string& name, const std::string& what, const Computation& compute) {
    return Claim{"random/threads: " + name, how + what,    thread_faults(context.isa(), compute), 0,
                 "core/src/context.cpp",    "reverse-mode"};
  };
  const auto step = [](meta::Projections projections) {
    return [projections](const Context& inner) { return training_step(inner, projections); };
  };
  const std::string parts = "loss, logits, gradients; sampled routing, dropout";
  return {claim("training step, shared projections", parts, step(meta::Projections::shared)),
          claim("training step, per-expert projections", parts, step(meta::Projections::per_expert)),
          claim("large operations", "linear, GELU, softmax of 700 rows with gradients", large_operations)};
}

}  // namespace

std::vector<AuditTask> random_audit() {
  return {{"random/philox", philox_claims}, {"random/threads", thread_claims}};
}

}  // namespace dirigo::tools
