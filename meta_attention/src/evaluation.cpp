// Held-out evaluation: quality, routing statistics, what ran, and what happens when the routing is replaced.
#include "dirigo/meta_attention/evaluation.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "dirigo/core/dirichlet_math.hpp"
#include "dirigo/core/kernels.hpp"

namespace dirigo::meta {

namespace {

using Row = std::array<double, expert_count>;

double percent_of_log_k(double nats) {
  return 100 * nats / std::log(double(expert_count));
}

Row row_of(const Tensor& matrix, std::int64_t t) {
  Row row{};
  visit_dtype(matrix.dtype(), [&](auto zero) {
    const auto* values = matrix.data<decltype(zero)>() + t * expert_count;
    for (std::size_t k = 0; k < expert_count; ++k) row[k] = double(values[k]);
  });
  return row;
}

// Running sums over the tokens of one layer.
struct RoutingSums {
  std::int64_t tokens = 0;
  Row mean{}, chosen{};
  double entropy = 0, expected_entropy = 0, kl = 0, uncertainty = 0, argmax_cost = 0;
  bool dirichlet = false;

  void add(const LayerRouting& layer, std::span<const double> costs, std::span<const double> prior) {
    const std::int64_t rows = layer.mean.shape()[0];
    dirichlet = layer.concentration.defined();
    for (std::int64_t t = 0; t < rows; ++t) {
      const Row m = row_of(layer.mean, t);
      const auto best = std::size_t(layer.chosen[std::size_t(t)]);
      for (std::size_t k = 0; k < expert_count; ++k) mean[k] += m[k];
      chosen[best] += 1;
      argmax_cost += costs[best];
      entropy += dirichlet::categorical_entropy(m);
      if (dirichlet) add_dirichlet(row_of(layer.concentration, t), prior);
    }
    tokens += rows;
  }

  void add_dirichlet(const Row& b, std::span<const double> prior) {
    expected_entropy += dirichlet::expected_categorical_entropy(b);
    kl += dirichlet::kl(b, prior);
    uncertainty += dirichlet::entropy(b);
  }

  RoutingStatistics statistics(std::span<const double> costs, std::span<const double> null_mean) const {
    RoutingStatistics s;
    const double n = double(tokens);
    for (std::size_t k = 0; k < expert_count; ++k) {
      s.mean_weights.push_back(mean[k] / n);
      s.fraction_argmax.push_back(chosen[k] / n);
      s.projected_cost_pct += 100 * mean[k] / n * costs[k];
      // KL(mean routing || prior mean), 0 log 0 = 0
      if (mean[k] > 0) s.kl_aggregate += mean[k] / n * std::log(mean[k] / n / null_mean[k]);
    }
    s.entropy_mean_pct = percent_of_log_k(entropy / n);
    s.argmax_cost_pct = 100 * argmax_cost / n;
    s.mi_token_expert = dirichlet::categorical_entropy(s.mean_weights) - entropy / n;
    if (dirichlet) {
      s.entropy_sampled_pct = percent_of_log_k(expected_entropy / n);
      s.kl = kl / n;
      s.uncertainty_mean = uncertainty / n;
    }
    return s;
  }
};

// The unweighted mean of the layers' values: tokens of different layers are never pooled.
RoutingStatistics average(const std::vector<RoutingStatistics>& layers) {
  RoutingStatistics mean = layers.front();
  const double n = double(layers.size());
  const auto fold = [&](auto member) {
    double sum = 0;
    for (const auto& layer : layers) sum += layer.*member;
    mean.*member = sum / n;
  };
  const auto fold_optional = [&](auto member) {
    if (!(mean.*member)) return;
    double sum = 0;
    for (const auto& layer : layers) sum += *(layer.*member);
    mean.*member = sum / n;
  };
  const auto fold_vector = [&](auto member) {
    for (std::size_t k = 0; k < expert_count; ++k) {
      double sum = 0;
      for (const auto& layer : layers) sum += (layer.*member)[k];
      (mean.*member)[k] = sum / n;
    }
  };
  fold_vector(&RoutingStatistics::mean_weights);
  fold_vector(&RoutingStatistics::fraction_argmax);
  fold(&RoutingStatistics::entropy_mean_pct);
  fold(&RoutingStatistics::projected_cost_pct);
  fold(&RoutingStatistics::argmax_cost_pct);
  fold(&RoutingStatistics::mi_token_expert);
  fold(&RoutingStatistics::kl_aggregate);
  fold_optional(&RoutingStatistics::entropy_sampled_pct);
  fold_optional(&RoutingStatistics::kl);
  fold_optional(&RoutingStatistics::uncertainty_mean);
  return mean;
}

// Groups the NLL summed by position into 1, 2, 3-4, 5-8, ... bytes of context.
std::vector<ContextNll> by_context(const std::vector<double>& position_sums, std::int64_t windows) {
  std::vector<ContextNll> groups;
  const auto length = std::int64_t(position_sums.size());
  for (std::int64_t from = 1, to = 1; from <= length; from = to + 1, to = std::min(2 * to, length)) {
    const auto first = position_sums.begin() + (from - 1), last = position_sums.begin() + to;
    groups.push_back({from, to, std::accumulate(first, last, 0.0) / double(windows * (to - from + 1))});
    if (to == length) break;
  }
  return groups;
}

// Running sums over tokens of one need, or of one gap.
struct NeedSums {
  std::int64_t tokens = 0;
  double nll = 0, hits = 0;
  std::vector<Row> chosen_by_layer;

  void add(double token_nll, bool hit, const std::vector<LayerRouting>& layers, std::size_t row) {
    tokens += 1;
    nll += token_nll;
    hits += hit ? 1 : 0;
    chosen_by_layer.resize(layers.size(), Row{});
    for (std::size_t l = 0; l < layers.size(); ++l)
      chosen_by_layer[l][std::size_t(layers[l].chosen[row])] += 1;
  }

  void add(const NeedSums& other) {
    tokens += other.tokens;
    nll += other.nll;
    hits += other.hits;
    chosen_by_layer.resize(std::max(chosen_by_layer.size(), other.chosen_by_layer.size()), Row{});
    for (std::size_t l = 0; l < other.chosen_by_layer.size(); ++l) {
      for (std::size_t k = 0; k < expert_count; ++k) chosen_by_layer[l][k] += other.chosen_by_layer[l][k];
    }
  }

  NeedStatistics statistics() const {
    NeedStatistics s;
    s.tokens = tokens;
    const auto mean = [this](double sum) { return tokens > 0 ? sum / double(tokens) : 0; };
    s.nll = mean(nll);
    s.accuracy = mean(hits);
    for (const Row& chosen : chosen_by_layer) {
      std::vector<double> fraction;
      for (const double count : chosen) fraction.push_back(mean(count));
      s.fraction_argmax_by_layer.push_back(std::move(fraction));
    }
    return s;
  }
};

// The bins that hold a token.
std::vector<GapStatistics> by_gap(const std::vector<NeedSums>& bins) {
  std::vector<GapStatistics> result;
  for (std::size_t bin = 0; bin < bins.size(); ++bin) {
    const std::int64_t from = std::int64_t{1} << bin;
    if (bins[bin].tokens > 0) result.push_back({bins[bin].statistics(), from, 2 * from - 1});
  }
  return result;
}

// One pass over the text, batch by batch.
struct Batch {
  std::int64_t first_window, windows;
  std::vector<std::int32_t> inputs, targets;
  std::vector<std::uint8_t> needs;
  std::vector<std::int32_t> gaps;
};

Batch read_batch(const EvaluationText& text, std::int64_t first, std::int64_t windows) {
  Batch batch{first, windows, {}, {}, {}, {}};
  const auto tokens = std::size_t(windows * text.length);
  batch.inputs.resize(tokens);
  batch.targets.resize(tokens);
  batch.needs.resize(text.need_names.empty() ? 0 : tokens);
  batch.gaps.resize(batch.needs.size());
  const auto length = std::size_t(text.length);
  const auto part = [length](auto& values, std::int64_t window) {
    return values.empty() ? std::span(values)
                          : std::span(values).subspan(std::size_t(window) * length, length);
  };
  for (std::int64_t w = 0; w < windows; ++w) {
    text.window(first + w,
                {part(batch.inputs, w), part(batch.targets, w), part(batch.needs, w), part(batch.gaps, w)});
  }
  return batch;
}

// -log softmax(logits)[target] for every row, as double.
std::vector<double> token_losses(const Context& context, const Tensor& logits,
                                 std::span<const std::int32_t> targets) {
  std::vector<double> losses(targets.size());
  const std::int64_t rows = logits.shape()[0], classes = logits.shape()[1];
  visit_dtype(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> values(targets.size());
    const T* source = logits.data<T>();
    context.parallel_for<T>(rows, 256, [&](std::int64_t begin, std::int64_t end) {
      context.kernels<T>().cross_entropy(end - begin, classes, source + begin * classes,
                                         targets.data() + begin, values.data() + begin, nullptr);
    });
    std::copy(values.begin(), values.end(), losses.begin());
  });
  return losses;
}

// Whether the largest logit of a row, the first of equals, is the target's.
std::vector<std::uint8_t> token_hits(const Context& context, const Tensor& logits,
                                     std::span<const std::int32_t> targets) {
  std::vector<std::uint8_t> hits(targets.size());
  const std::int64_t rows = logits.shape()[0], classes = logits.shape()[1];
  visit_dtype(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* source = logits.data<T>();
    context.parallel_for<T>(rows, 256, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* row = source + i * classes;
        hits[std::size_t(i)] = std::max_element(row, row + classes) - row == targets[std::size_t(i)];
      }
    });
  });
  return hits;
}

class Evaluator {
 public:
  Evaluator(const Context& context, LanguageModel& model, const EvaluationText& text,
            const EvaluationOptions& options)
      : context_(context), model_(model), text_(text), options_(options) {
    batch_windows_ = std::max<std::int64_t>(1, options.batch_tokens / text.length);
  }

  // Calls visit(batch, forward, losses) for every batch. `means(batch)` may replace the routing.
  template <class Visit, class Means>
  void pass(const ForwardOptions& forward_options, Visit visit, Means means) {
    for (std::int64_t first = 0; first < text_.windows; first += batch_windows_) {
      const Batch batch = read_batch(text_, first, std::min(batch_windows_, text_.windows - first));
      ForwardOptions call = forward_options;
      const std::vector<Tensor> replaced = means(batch);
      call.replaced_means = replaced;
      Tape tape(context_, Tape::Mode::inference);
      const Forward forward = model_(tape, batch.inputs, batch.windows, text_.length, call);
      visit(batch, forward, token_losses(context_, forward.logits.value(), batch.targets));
      report(batch.windows);
    }
  }

  Evaluation run() {
    passes_ = options_.deltas ? 5 : 1;
    Evaluation result = main_pass();
    if (options_.deltas) result.deltas = deltas();
    return result;
  }

 private:
  void report(std::int64_t windows) {
    done_ += windows;
    const double fraction = double(done_) / double(text_.windows * passes_);
    if (options_.progress && !options_.progress(fraction))
      throw Interrupted("[evaluate] stopped before the end");
  }

  Evaluation main_pass() {
    const auto layers = std::size_t(model_.config().model.layers);
    const auto costs = model_.costs();
    const std::vector<double> null_mean = prior_mean(model_.config().router, costs);
    std::vector<RoutingSums> sums(layers);
    std::vector<NeedSums> needs(text_.need_names.size());
    std::vector<NeedSums> gaps;  // [floor(log2(gap))]
    std::int64_t hit_count = 0;
    Evaluation result;
    result.executed.tokens_per_expert.assign(layers, std::vector<std::int64_t>(expert_count, 0));
    result.executed.flops_per_expert.assign(layers, std::vector<ExpertFlops>(expert_count));
    std::vector<double> window_nll, position_sums(std::size_t(text_.length), 0.0);

    ForwardOptions forward_options;
    forward_options.routing = options_.routing;
    forward_options.gate = options_.gate;
    forward_options.eta = options_.eta;
    forward_options.forced_expert = options_.forced_expert;
    const FlopCounter& flops = context_.flops();
    const auto products = flops.products.load(), attention = flops.attention.load(),
               padding = flops.attention_padding.load();
    const auto start = std::chrono::steady_clock::now();
    double bookkeeping = 0;  // seconds spent on statistics, which no model needs
    pass(
        forward_options,
        [&](const Batch& batch, const Forward& forward, const std::vector<double>& losses) {
          const auto begin = std::chrono::steady_clock::now();
          for (std::size_t l = 0; l < layers; ++l) {
            sums[l].add(forward.layers[l], costs, model_.prior());
            for (std::size_t k = 0; k < expert_count; ++k) {
              result.executed.tokens_per_expert[l][k] += forward.layers[l].tokens_per_expert[k];
              result.executed.flops_per_expert[l][k] += forward.layers[l].flops_per_expert[k];
            }
            if (options_.deltas) keep_means(l, forward.layers[l].mean);
          }
          for (std::int64_t w = 0; w < batch.windows; ++w) {
            const auto at = losses.begin() + w * text_.length;
            window_nll.push_back(std::accumulate(at, at + text_.length, 0.0) / double(text_.length));
          }
          for (std::size_t i = 0; i < losses.size(); ++i)
            position_sums[i % position_sums.size()] += losses[i];
          const auto hits = token_hits(context_, forward.logits.value(), batch.targets);
          hit_count += std::count(hits.begin(), hits.end(), 1);
          for (std::size_t i = 0; i < batch.needs.size(); ++i) {
            needs[batch.needs[i]].add(losses[i], hits[i] != 0, forward.layers, i);
            if (batch.gaps[i] < 1) continue;
            const auto bin = std::size_t(std::bit_width(std::uint32_t(batch.gaps[i]))) - 1;
            gaps.resize(std::max(gaps.size(), bin + 1));
            gaps[bin].add(losses[i], hits[i] != 0, forward.layers, i);
          }
          bookkeeping += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        },
        [](const Batch&) { return std::vector<Tensor>{}; });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() - bookkeeping;

    result.tokens = text_.windows * text_.length;
    result.seq_len = text_.length;
    result.skipped_bytes = text_.skipped_bytes;
    result.routing_mode = options_.routing;
    result.entropy_floor = text_.entropy_floor;
    set_nll(result, window_nll);
    result.window_nll = std::move(window_nll);
    result.nll_by_context = by_context(position_sums, text_.windows);
    for (const RoutingSums& layer : sums) result.layers.push_back(layer.statistics(costs, null_mean));
    result.overall = average(result.layers);
    result.null = null_router(model_);
    result.accuracy = double(hit_count) / double(result.tokens);
    add_needs(result, needs);
    result.by_gap = by_gap(gaps);

    Executed& executed = result.executed;
    executed.attention_flops = double(flops.attention.load() - attention);
    executed.padded_flops = double(flops.attention_padding.load() - padding);
    executed.model_flops = executed.attention_flops + double(flops.products.load() - products);
    const auto full = model_.full_attention_flops(text_.windows, text_.length);
    executed.attention_flops_vs_full = executed.attention_flops / full.attention;
    executed.model_flops_vs_full = executed.model_flops / full.model;
    executed.wall_s = seconds;
    executed.tokens_per_s = double(result.tokens) / seconds;
    return result;
  }

  // Windows are the independent units; the standard error of their mean.
  static void set_nll(Evaluation& result, const std::vector<double>& window_nll) {
    const double n = double(window_nll.size());
    result.nll = std::accumulate(window_nll.begin(), window_nll.end(), 0.0) / n;
    double squares = 0;
    for (const double value : window_nll) squares += (value - result.nll) * (value - result.nll);
    result.nll_se = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  }

  // Every tag, and `recall` as the union of recall_near and recall_far.
  void add_needs(Evaluation& result, const std::vector<NeedSums>& needs) const {
    NeedSums recall;
    bool has_recall = false;
    for (std::size_t i = 0; i < needs.size(); ++i) {
      result.by_need[text_.need_names[i]] = needs[i].statistics();
      if (text_.need_names[i].rfind("recall_", 0) != 0) continue;
      has_recall = true;
      recall.add(needs[i]);
    }
    if (has_recall) result.by_need["recall"] = recall.statistics();
  }

  void keep_means(std::size_t layer, const Tensor& mean) {
    means_.resize(std::size_t(model_.config().model.layers));
    for (std::int64_t t = 0; t < mean.shape()[0]; ++t) means_[layer].push_back(row_of(mean, t));
  }

  // A soft pass in which token i of the text is routed by row source(i) of `table`.
  template <class Source>
  double replaced_nll(const std::vector<std::vector<Row>>& table, Source source) {
    double sum = 0;
    pass(
        ForwardOptions{},
        [&](const Batch&, const Forward&, const std::vector<double>& losses) {
          sum += std::accumulate(losses.begin(), losses.end(), 0.0);
        },
        [&](const Batch& batch) {
          std::vector<Tensor> replaced;
          const std::int64_t begin = batch.first_window * text_.length, rows = batch.windows * text_.length;
          for (const auto& layer : table) {
            Tensor mean = Tensor::empty(context_, Shape{rows, expert_count});
            float* out = mean.data<float>();
            for (std::int64_t i = 0; i < rows; ++i) {
              for (const double m : layer[std::size_t(source(begin + i))]) *out++ = float(m);
            }
            replaced.push_back(mean);
          }
          return replaced;
        });
    return sum / double(text_.windows * text_.length);
  }

  // Defined on soft routing, whatever the main pass executed; hence a soft pass of its own to compare with.
  Deltas deltas() {
    const auto tokens = std::size_t(text_.windows * text_.length);
    const double soft = replaced_nll(means_, [](std::int64_t i) { return i; });

    // One seeded permutation of all tokens for all layers at once (Fisher-Yates).
    std::vector<std::int64_t> order(tokens);
    std::iota(order.begin(), order.end(), std::int64_t{0});
    PhiloxStream stream(random_key(options_.seed, 0, Purpose::permutation), 0);
    for (std::size_t i = tokens; i > 1; --i) std::swap(order[i - 1], order[stream.below(i)]);

    const std::vector<double> null = prior_mean(model_.config().router, model_.costs());
    Row null_row{};
    std::copy(null.begin(), null.end(), null_row.begin());
    const std::vector<std::vector<Row>> prior(means_.size(), std::vector<Row>{null_row});

    std::vector<std::vector<Row>> by_position(means_.size(),
                                              std::vector<Row>(std::size_t(text_.length), Row{}));
    for (std::size_t l = 0; l < means_.size(); ++l) {
      for (std::size_t i = 0; i < tokens; ++i) {
        for (std::size_t k = 0; k < expert_count; ++k) {
          by_position[l][i % std::size_t(text_.length)][k] += means_[l][i][k] / double(text_.windows);
        }
      }
    }
    Deltas d;
    d.permutation = replaced_nll(means_, [&](std::int64_t i) { return order[std::size_t(i)]; }) - soft;
    d.prior = replaced_nll(prior, [](std::int64_t) { return 0; }) - soft;
    d.position_only = replaced_nll(by_position, [&](std::int64_t i) { return i % text_.length; }) - soft;
    return d;
  }

  const Context& context_;
  LanguageModel& model_;
  const EvaluationText& text_;
  const EvaluationOptions& options_;
  std::int64_t batch_windows_ = 1, done_ = 0, passes_ = 1;
  std::vector<std::vector<Row>> means_;  // [layer][token], kept for the deltas
};

}  // namespace

RoutingStatistics null_router(const LanguageModel& model) {
  const auto costs = model.costs();
  const auto prior = model.prior();
  const std::vector<double> mean = prior_mean(model.config().router, costs);
  std::size_t best = 0;
  for (std::size_t k = 1; k < mean.size(); ++k) {
    if (mean[k] > mean[best] || (mean[k] == mean[best] && costs[k] < costs[best])) best = k;
  }
  RoutingStatistics s;
  s.mean_weights = mean;
  s.fraction_argmax.assign(mean.size(), 0.0);
  s.fraction_argmax[best] = 1;
  for (std::size_t k = 0; k < mean.size(); ++k) s.projected_cost_pct += 100 * mean[k] * costs[k];
  s.entropy_mean_pct = percent_of_log_k(dirichlet::categorical_entropy(mean));
  s.entropy_sampled_pct = percent_of_log_k(dirichlet::expected_categorical_entropy(prior));
  s.argmax_cost_pct = 100 * costs[best];
  s.kl = 0;
  s.uncertainty_mean = dirichlet::entropy(prior);
  return s;
}

Evaluation evaluate(const Context& context, LanguageModel& model, const EvaluationText& text,
                    const EvaluationOptions& options) {
  if (text.windows < 1 || text.length < 1)
    throw ValueError("[evaluate] text: expected at least one window, got none");
  return Evaluator(context, model, text, options).run();
}

}  // namespace dirigo::meta
