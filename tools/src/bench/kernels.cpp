// dirigo bench kernels: everything in a step that is neither a product nor attention, on one thread.
#include <fmt/format.h>

#include <map>

#include "bench/bench.hpp"
#include "bench/bench_rows.hpp"
#include "dirigo/autograd/ops.hpp"
#include "dirigo/core/kernels.hpp"
#include "table.hpp"

namespace dirigo::tools {
namespace {

// 64 KB an array: beyond the first-level cache, within the second, as inside a step.
constexpr std::int64_t count = 16384;
constexpr std::int64_t width = 128, vocabulary = 128, sequence = 256;  // of rows
constexpr std::int64_t tokens = 2048, routes = 3;                      // of the Dirichlet

struct Piece {
  const char* name;
  std::int64_t values;  // of the result, or of the parameters
  int arrays;           // of float that pass through memory, for GB/s; 0: not bound by it
  TimedWork work;
};

class Pieces {
 public:
  explicit Pieces(const Context& context) : context_(context), kernels_(context.kernels<float>()) {
    add_elementwise();
    add_rows();
    add_adam();
    add_dirichlet();
  }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  const std::vector<Piece>& all() const noexcept { return pieces_; }

 private:
  // An array of `count` values by name: x, dy, ... are inputs in [-1, 1), the rest is written first.
  float* array(const std::string& name) {
    const auto site = std::uint32_t(arrays_.size());
    return arrays_.try_emplace(name, uniform_tensor(context_, {count}, site)).first->second.data<float>();
  }

  void add(const char* name, int arrays, std::function<void()> run, std::int64_t values = count) {
    pieces_.push_back({name, values, arrays, {std::move(run)}});
  }

  void add_elementwise() {
    const KernelTable<float>& k = kernels_;
    float *x = array("x"), *dy = array("dy"), *y = array("y");
    const auto map = [&](const char* name, void (*kernel)(std::int64_t, const float*, float*) noexcept) {
      add(name, 2, [=] { kernel(count, x, y); });
    };
    const auto vjp = [&](const char* name,
                         void (*kernel)(std::int64_t, const float*, const float*, float*) noexcept) {
      add(name, 3, [=] { kernel(count, x, dy, y); });
    };
    add("scale", 2, [=, &k] { k.scale(count, 2, x, y); });
    map("exp", k.exp);
    map("softplus", k.softplus);
    vjp("softplus, gradient", k.softplus_vjp);
    map("ELU + 1", k.elu1);
    vjp("ELU + 1, gradient", k.elu1_vjp);
    map("GELU", k.gelu);
    vjp("GELU, gradient", k.gelu_vjp);
    add("dropout", 2, [=, &k] { k.dropout(count, 0, 1, 2, 3, 0.1F, x, y); });
  }

  void add_rows() {
    const KernelTable<float>& k = kernels_;
    float *x = array("x"), *dy = array("dy"), *y = array("y"), *p = array("p"), *sums = array("row sums");
    float *gamma = array("gamma"), *beta = array("beta"), *mean = array("mean"), *rstd = array("rstd");
    float *dgamma = array("dgamma"), *dbeta = array("dbeta");
    constexpr std::int64_t lines = count / sequence, normed = count / width, predictions = count / vocabulary;
    k.softmax(lines, sequence, x, p);
    k.layer_norm(normed, width, 1e-5F, x, gamma, beta, y, mean, rstd);
    add("softmax", 2, [=, &k] { k.softmax(lines, sequence, x, y); });
    add("softmax, gradient", 3, [=, &k] { k.softmax_vjp(lines, sequence, p, dy, y); });
    add("layer norm", 2, [=, &k] { k.layer_norm(normed, width, 1e-5F, x, gamma, beta, y, mean, rstd); });
    add("layer norm, gradient", 3,
        [=, &k] { k.layer_norm_vjp(normed, width, x, gamma, mean, rstd, dy, y, dgamma, dbeta); });
    for (std::int64_t i = 0; i < predictions; ++i) targets_.push_back(std::int32_t(i * 7 % vocabulary));
    add("cross-entropy and gradient", 2,
        [=, &k, this] { k.cross_entropy(predictions, vocabulary, x, targets_.data(), sums, y); });
  }

  void add_adam() {
    float *gradient = array("gradient"), *parameter = array("parameter");
    float *moment1 = array("moment1"), *moment2 = array("moment2");
    for (std::int64_t i = 0; i < count; ++i) moment2[i] = moment1[i] * moment1[i];
    AdamStep step;
    step.lr = 1e-3;
    step.weight_decay = 0.1;
    add("Adam", 7, [=, this] { kernels_.adam(count, step, gradient, parameter, moment1, moment2); });
  }

  // Through the tape, as training does: the draw and the divergence from the prior of every token.
  void add_dirichlet() {
    concentration_ = Tensor::empty(context_, {tokens, routes});
    const Tensor noise = uniform_tensor(context_, {tokens, routes}, 99);
    for (std::int64_t i = 0; i < noise.size(); ++i) {
      concentration_.data<float>()[i] = 1.01F + noise.data<float>()[i];
    }
    add(
        "Dirichlet sample and KL", 0, [this] { run_dirichlet(Tape::Mode::inference); }, tokens * routes);
    add(
        "the same with gradients", 0, [this] { run_dirichlet(Tape::Mode::training); }, tokens * routes);
  }

  void run_dirichlet(Tape::Mode mode) {
    constexpr double prior[routes] = {0.01, 0.86, 0.71};
    Tape tape(context_, mode);
    const Variable b = tape.leaf(concentration_);
    const Variable weights = ops::dirichlet_rsample(b, random_key(1, 0, Purpose::test, 1));
    const Variable kl = ops::dirichlet_kl(b, prior);
    if (mode == Tape::Mode::training) tape.backward(ops::add(ops::mean(weights), ops::mean(kl)));
  }

  const Context& context_;
  const KernelTable<float>& kernels_;
  std::map<std::string, Tensor> arrays_;
  std::vector<std::int32_t> targets_;
  Tensor concentration_;
  std::vector<Piece> pieces_;
};

}  // namespace

BenchReport bench_kernels(const Context& context, const Sampling& sampling) {
  const Pieces pieces(context);
  PeakRows peak(context);
  std::vector<TimedWork> work = peak.work();
  for (const Piece& piece : pieces.all()) work.push_back(piece.work);
  const std::vector<Timing> timings = time_in_turns(work, sampling);

  BenchReport report;
  peak.add_to(report, sampling, timings);
  Table table({"kernel", "G values/s", "GB/s", "quartiles", "ns/value", "FMAs/value"});
  for (std::size_t i = 0; i < pieces.all().size(); ++i) {
    const Piece& piece = pieces.all()[i];
    const Timing& timing = timings[peak.size() + i];
    const double values_per_s = double(piece.values) / timing.median_ms * 1e3;
    const double gigabytes = values_per_s * double(sizeof(float)) * piece.arrays / 1e9;
    const double fmas = peak.flops_per_ms() / 2 * timing.median_ms / double(piece.values);
    nlohmann::ordered_json row = timed_row(context, sampling, piece.name, timing);
    row["values_per_s"] = values_per_s;
    row["gb_per_s"] = piece.arrays > 0 ? nlohmann::ordered_json(gigabytes) : nlohmann::ordered_json();
    row["fmas_per_value"] = fmas;
    row["share_of_peak"] = nullptr;  // not made of multiply-adds
    report.results.push_back(row);
    table.add({piece.name, fmt::format("{:.3f}", values_per_s / 1e9),
               piece.arrays > 0 ? fmt::format("{:.1f}", gigabytes) : "-", percent(timing.spread),
               fmt::format("{:.3f}", 1e9 / values_per_s), fmt::format("{:.1f}", fmas)});
  }
  report.text =
      table.text() +
      "one thread, data in the second-level cache; FMAs/value: what the peak could do in that time\n" +
      peak.text();
  return report;
}

}  // namespace dirigo::tools
