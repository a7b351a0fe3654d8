// A hidden Markov process and the exact belief about its state: filtering by Bayes' rule.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "dirigo/core/philox.hpp"

namespace dirigo {

class HiddenMarkov {
 public:
  // In every step the state stays with probability `stay`, else it is drawn from its row of a fixed table,
  // and emits a symbol by another one. All rows are drawn from the flat Dirichlet distribution. The first
  // state is uniform.
  HiddenMarkov(std::size_t states, std::size_t symbols, double stay, std::uint64_t seed)
      : states_(states), symbols_(symbols) {
    PhiloxStream random(random_key(seed, 0, Purpose::data), 1);  // element 0 is that of TextTable
    for (std::size_t s = 0; s < states; ++s) {
      transition_.push_back(flat_dirichlet(random, states));
      for (double& p : transition_[s]) p *= 1 - stay;
      transition_[s][s] += stay;
      emission_.push_back(flat_dirichlet(random, symbols));
    }
  }

  std::size_t first_state(PhiloxStream& random) const { return random.below(states_); }
  std::size_t next_state(PhiloxStream& random, std::size_t state) const {
    return draw(random, transition_[state]);
  }
  std::size_t symbol(PhiloxStream& random, std::size_t state) const { return draw(random, emission_[state]); }

  // The belief: P(state behind the next symbol | symbols so far).
  using Belief = std::vector<double>;
  Belief prior() const { return Belief(states_, 1 / static_cast<double>(states_)); }

  void observe(Belief& belief, std::size_t symbol) const {
    Belief next(states_);
    double total = 0;
    for (std::size_t s = 0; s < states_; ++s) {
      const double joint = belief[s] * emission_[s][symbol];
      total += joint;
      for (std::size_t to = 0; to < states_; ++to) next[to] += joint * transition_[s][to];
    }
    for (std::size_t s = 0; s < states_; ++s) belief[s] = next[s] / total;
  }

  // Adds `weight` times the distribution of the next symbol to probabilities[symbol].
  void predict(const Belief& belief, double weight, std::span<double> probabilities) const {
    for (std::size_t s = 0; s < states_; ++s) {
      for (std::size_t o = 0; o < symbols_; ++o) probabilities[o] += weight * belief[s] * emission_[s][o];
    }
  }

  const std::vector<std::vector<double>>& transition() const { return transition_; }  // [from][to]
  const std::vector<std::vector<double>>& emission() const { return emission_; }      // [state][symbol]

 private:
  static std::vector<double> flat_dirichlet(PhiloxStream& random, std::size_t size) {
    std::vector<double> p(size);
    double total = 0;
    for (double& value : p) total += value = -std::log(random.uniform());
    for (double& value : p) value /= total;
    return p;
  }

  static std::size_t draw(PhiloxStream& random, const std::vector<double>& probabilities) {
    double u = random.uniform();
    std::size_t i = 0;
    while (i + 1 < probabilities.size() && u >= probabilities[i]) u -= probabilities[i++];
    return i;
  }

  std::size_t states_, symbols_;
  std::vector<std::vector<double>> transition_, emission_;
};

}  // namespace dirigo
