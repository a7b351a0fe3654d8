// Sessions: decode equals prefill bit by bit, whatever the split, the routing and the company; forks,
// rewinding, sliding, memory, and every way of misusing them.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "dirigo/meta_attention/session.hpp"

using namespace dirigo;
using namespace dirigo::meta;

namespace {

constexpr std::int64_t vocabulary = 11, max_len = 100;

Config small_config(Projections projections, RouterKind kind = RouterKind::bayes,
                    Positions positions = Positions::learned) {
  Config c = preset("tiny");
  c.model.d_model = 16;
  c.model.heads = 2;
  c.model.layers = 2;
  c.model.max_len = max_len;
  c.model.positions = positions;
  c.model.bias_slope = 0;
  c.router.hidden = 8;
  c.router.kind = kind;
  c.attention.projections = projections;
  c.attention.window = 5;
  c.attention.chunk = 12;  // neither a divisor nor a multiple of a page
  c.train.seq_len = 40;
  if (kind != RouterKind::bayes) c.objective.w_kl.value = 0;
  resolve(c);
  return c;
}

constexpr Positions all_positions[] = {Positions::learned, Positions::rotary, Positions::window_bias};

// Both kinds of projections with every kind of positions.
std::vector<Config> variants() {
  std::vector<Config> configs;
  for (const auto projections : {Projections::shared, Projections::per_expert}) {
    for (const auto positions : all_positions) {
      configs.push_back(small_config(projections, RouterKind::bayes, positions));
    }
  }
  return configs;
}

// Weights far from their small initial values, so that routing differs from token to token.
void stir(LanguageModel& model, std::uint64_t seed) {
  std::uint32_t site = 0;
  for (const auto& named : model.parameters()) {
    PhiloxStream stream(random_key(seed, 0, Purpose::test, site++), 0);
    for (float& v : named.parameter->value.span<float>()) v += float(0.3 * stream.normal());
  }
}

std::vector<std::int32_t> tokens(std::int64_t n, std::uint32_t seed) {
  std::vector<std::int32_t> t(static_cast<std::size_t>(n));
  PhiloxStream stream(random_key(seed, 0, Purpose::test, 1000), 0);
  for (auto& token : t) token = std::int32_t(stream.below(vocabulary));
  return t;
}

struct Fixture {
  explicit Fixture(const Config& config, int threads = 2)
      : context({.threads = threads}), model(context, config, vocabulary, 3) {
    stir(model, 5);
    ready.emplace(context, model);
  }
  explicit Fixture(Projections projections = Projections::shared) : Fixture(small_config(projections)) {}

  InferenceSession session(const ForwardOptions& forward = {}, std::int64_t most = 0) const {
    SessionOptions options;
    options.forward = forward;
    options.max_length = most;
    return {*ready, options};
  }

  Context context;
  LanguageModel model;
  std::optional<InferenceModel> ready;
};

// What LanguageModel says about every token of a text.
SessionOutput whole(Fixture& fixture, std::span<const std::int32_t> text, const ForwardOptions& options) {
  Tape tape(fixture.context, Tape::Mode::inference);
  const Forward forward = fixture.model(tape, text, 1, std::int64_t(text.size()), options);
  SessionOutput out;
  const auto logits = forward.logits.value().span<float>();
  out.logits.assign(logits.begin(), logits.end());
  for (const LayerRouting& layer : forward.layers) {
    SessionRouting routing;
    const auto mean = layer.mean.span<float>();
    routing.mean.assign(mean.begin(), mean.end());
    if (layer.concentration.defined()) {
      const auto b = layer.concentration.span<float>();
      routing.concentration.assign(b.begin(), b.end());
    }
    for (const std::int32_t e : layer.chosen) routing.chosen.push_back(ExpertKind(e));
    out.layers.push_back(std::move(routing));
  }
  return out;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

template <class T>
std::span<const T> part(const std::vector<T>& values, std::size_t begin, std::size_t count,
                        std::size_t columns) {
  return std::span(values).subspan(begin * columns, count * columns);
}

// Tokens [begin, begin + count) of `expected` are what a call returned, but for its executed weights.
bool agrees(const SessionOutput& expected, const SessionOutput& got, std::size_t begin, std::size_t count,
            bool all_logits = false) {
  const std::size_t first = all_logits ? begin : begin + count - 1;
  bool same = same_bits(part(expected.logits, first, begin + count - first, vocabulary), got.logits);
  for (std::size_t l = 0; l < expected.layers.size(); ++l) {
    const SessionRouting &e = expected.layers[l], &g = got.layers[l];
    same = same && same_bits(part(e.mean, begin, count, expert_count), g.mean);
    same = same && std::equal(g.chosen.begin(), g.chosen.end(), e.chosen.begin() + std::ptrdiff_t(begin)) &&
           g.chosen.size() == count;
    same = same && e.concentration.empty() == g.concentration.empty();
    if (!e.concentration.empty()) {
      same = same && same_bits(part(e.concentration, begin, count, expert_count), g.concentration);
    }
  }
  return same;
}

std::vector<ForwardOptions> all_modes() {
  std::vector<ForwardOptions> modes(7);
  modes[1].routing = RoutingMode::hard;
  modes[2].routing = RoutingMode::gated;
  modes[2].eta = 0.15;
  modes[3].routing = RoutingMode::gated;
  modes[3].gate = Gate::max_mean;
  modes[3].eta = 0.5;
  for (int k = 0; k < expert_count; ++k) modes[std::size_t(4 + k)].forced_expert = ExpertKind(k);
  return modes;
}

// Feeds text[begin, end) in the given parts, of which those of one token are steps, and compares every part.
void check_parts(InferenceSession& session, std::span<const std::int32_t> text, const SessionOutput& expected,
                 std::span<const std::size_t> parts) {
  SessionOutput stepped;
  for (const std::size_t count : parts) {
    const auto begin = std::size_t(session.length());
    CAPTURE(begin);
    CAPTURE(count);
    if (count == 1) {
      session.step(text[begin], stepped);
      CHECK(agrees(expected, stepped, begin, 1));
    } else {
      PrefillOptions options;
      options.all_logits = count % 2 == 0;
      const SessionOutput out = session.prefill(text.subspan(begin, count), options);
      CHECK(agrees(expected, out, begin, count, options.all_logits));
    }
  }
}

template <class E>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "no error of this kind";
}

}  // namespace

TEST_CASE("session: decode equals prefill bit by bit, for every routing, projection and split") {
  const std::vector<std::vector<std::size_t>> splits = {
      std::vector<std::size_t>(90, 1),               // steps alone
      {90},                                          // one prefill
      {33, 1, 1, 1, 20, 1, 3, 14, 16},               // tiles, rows and steps
      {1, 2, 3, 4, 5, 6, 7, 1, 1, 1, 17, 1, 1, 40},  // and back to tiles
  };
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    const auto text = tokens(90, 1);
    const auto modes = all_modes();
    for (std::size_t mode = 0; mode < modes.size(); ++mode) {
      CAPTURE(mode);
      const SessionOutput expected = whole(fixture, text, modes[mode]);
      for (const auto& split : splits) {
        InferenceSession session = fixture.session(modes[mode]);
        check_parts(session, text, expected, split);
        CHECK(session.length() == 90);
        CHECK(std::equal(text.begin(), text.end(), session.tokens().begin(), session.tokens().end()));
      }
    }
  }
}

TEST_CASE("session: every kind of router, untied embeddings and the additive posterior") {
  for (const auto kind :
       {RouterKind::softmax, RouterKind::gumbel, RouterKind::static_expert, RouterKind::prior_mixture}) {
    for (const Config& variant : variants()) {
      CAPTURE(int(kind));
      Config config = small_config(variant.attention.projections, kind, variant.model.positions);
      config.router.expert = ExpertKind::linear;
      config.model.tie_embeddings = false;
      Fixture fixture(config);
      const auto text = tokens(50, 2);
      for (const auto routing : {RoutingMode::soft, RoutingMode::hard}) {
        ForwardOptions options;
        options.routing = routing;
        InferenceSession session = fixture.session(options);
        const std::size_t parts[] = {20, 1, 1, 5, 1, 17, 1, 4};
        check_parts(session, text, whole(fixture, text, options), parts);
      }
    }
  }
  Config config = small_config(Projections::shared);
  config.router.posterior = Posterior::additive;
  Fixture fixture(config);
  const auto text = tokens(30, 2);
  InferenceSession session = fixture.session();
  const std::size_t parts[] = {20, 1, 1, 8};
  check_parts(session, text, whole(fixture, text, {}), parts);
}

TEST_CASE("session: one thread and two, and a window beyond a block of keys, give the same bits") {
  for (const auto positions : all_positions) {
    CAPTURE(int(positions));
    Config config = small_config(Projections::shared, RouterKind::bayes, positions);
    config.model.max_len = 1300;
    config.attention.window = 700;
    config.attention.chunk = 64;
    resolve(config);
    Fixture one(config, 1), two(config, 2);
    const auto text = tokens(1300, 9);
    const SessionOutput expected = whole(one, text, {});
    const std::size_t parts[] = {700, 1, 1, 500, 1, 3, 1, 93};
    for (Fixture* const fixture : {&one, &two}) {
      InferenceSession session = fixture->session();
      check_parts(session, text, expected, parts);
    }
  }
}

TEST_CASE("session: positions that go on carry a text beyond max_len") {
  for (const Config& variant : variants()) {
    if (variant.model.positions == Positions::learned) continue;
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    CHECK(fixture.session().max_length() == max_len);
    const auto text = tokens(200, 3);
    for (const ForwardOptions& mode : all_modes()) {
      InferenceSession session = fixture.session(mode, 200);
      const std::size_t parts[] = {90, 1, 30, 1, 1, 60, 4, 13};
      check_parts(session, text, whole(fixture, text, mode), parts);
    }
    // What a session reserves for its maximum is stated, and held from the start.
    ForwardOptions local;
    local.forced_expert = ExpertKind::local;
    InferenceSession longest = fixture.session(local, longest_sequence);
    CHECK(longest.max_length() == longest_sequence);
    longest.prefill(text);
    CHECK(longest.memory_bytes() > std::size_t(longest_sequence) * sizeof(std::int32_t));
    CHECK(longest.memory_bytes() <= longest.max_memory_bytes());
  }
}

TEST_CASE("session: only the experts that a token's weights choose are computed") {
  Fixture fixture;
  ForwardOptions hard;
  hard.routing = RoutingMode::hard;
  InferenceSession session = fixture.session(hard);
  SessionOutput out;
  std::array<int, expert_count> ran{};
  for (const std::int32_t token : tokens(60, 3)) {
    const std::uint64_t before = fixture.context.flops().attention;
    const std::int64_t position = session.length();
    session.step(token, out);
    std::uint64_t expected = 0;
    for (const SessionRouting& layer : out.layers) {
      const auto chosen = std::size_t(layer.chosen[0]);
      ++ran[chosen];
      for (std::size_t e = 0; e < expert_count; ++e) CHECK(layer.weights[e] == (e == chosen ? 1 : 0));
      const std::int64_t open = position % 12 + 1;  // d = 8, two heads
      if (ExpertKind(chosen) == ExpertKind::full) expected += std::uint64_t(4 * 16 * (position + 1));
      if (ExpertKind(chosen) == ExpertKind::local) {
        expected += std::uint64_t(4 * 16 * std::min<std::int64_t>(5, position + 1));
      }
      if (ExpertKind(chosen) == ExpertKind::linear) {
        expected += std::uint64_t((position >= 12 ? 2 * 16 * 9 : 0) + 4 * 16 * open);
      }
      if (open == 12) expected += 2 * 16 * 9 * 12;  // the chunk is summed up
    }
    CHECK(fixture.context.flops().attention - before == expected);
  }
  CHECK(ran[0] > 0);
  CHECK(ran[1] > 0);
  CHECK(ran[2] > 0);
}

TEST_CASE("session: a routing override runs just what the caller chose") {
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    const auto text = tokens(40, 4);
    // The same choice as one-hot means of LanguageModel, run hard.
    std::vector<ExpertKind> choice;
    for (std::size_t i = 0; i < text.size() * 2; ++i)
      choice.push_back(ExpertKind((i * i + i / 7) % expert_count));
    std::vector<Tensor> means;
    for (std::size_t l = 0; l < 2; ++l) {
      Tensor mean = Tensor::zeros(fixture.context, {40, expert_count});
      for (std::size_t t = 0; t < 40; ++t)
        mean.data<float>()[t * expert_count + std::size_t(choice[2 * t + l])] = 1;
      means.push_back(mean);
    }
    ForwardOptions replaced;
    replaced.routing = RoutingMode::hard;
    replaced.replaced_means = means;
    const SessionOutput expected = whole(fixture, text, replaced);

    InferenceSession session = fixture.session();
    PrefillOptions prefill;
    prefill.all_logits = true;
    prefill.routing = std::span(choice).first(2 * 25);
    const SessionOutput first = session.prefill(std::span(text).first(25), prefill);
    CHECK(same_bits(part(expected.logits, 0, 25, vocabulary), first.logits));
    SessionOutput out;
    for (std::size_t t = 25; t < 40; ++t) {
      session.step(text[t], out, std::span(choice).subspan(2 * t, 2));
      CHECK(same_bits(part(expected.logits, t, 1, vocabulary), out.logits));
      CHECK(out.layers[1].weights[std::size_t(choice[2 * t + 1])] == 1);
    }
    // A rewound text is computed again with the same choices.
    session.rewind(20);
    prefill.routing = std::span(choice).subspan(40, 40);
    const SessionOutput again = session.prefill(std::span(text).subspan(20), prefill);
    CHECK(same_bits(part(expected.logits, 20, 20, vocabulary), again.logits));
  }
}

TEST_CASE("session: a batch of texts of different lengths gives the bits of each alone") {
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    std::vector<InferenceSession> together, alone;
    const auto modes = all_modes();
    for (std::size_t i = 0; i < 21; ++i) {  // more than the rows for which weights are read in place
      const auto prompt = tokens(std::int64_t(1 + 3 * i), std::uint32_t(i));
      for (auto* const sessions : {&together, &alone}) {
        sessions->push_back(fixture.session(modes[i % modes.size()]));
        sessions->back().prefill(prompt);
      }
    }
    std::vector<InferenceSession*> batch;
    for (InferenceSession& session : together) batch.push_back(&session);
    std::vector<SessionOutput> outputs(batch.size());
    SessionOutput expected;
    for (std::int64_t turn = 0; turn < 30; ++turn) {
      const auto next = tokens(std::int64_t(batch.size()), std::uint32_t(100 + turn));
      InferenceSession::step(batch, next, outputs);
      for (std::size_t i = 0; i < batch.size(); ++i) {
        alone[i].step(next[i], expected);
        CHECK(agrees(expected, outputs[i], 0, 1));
        for (std::size_t l = 0; l < 2; ++l) CHECK(expected.layers[l].weights == outputs[i].layers[l].weights);
      }
      std::rotate(batch.begin(), batch.begin() + 1, batch.end());  // in any order
      std::rotate(alone.begin(), alone.begin() + 1, alone.end());
    }
    InferenceSession::step({}, {}, {});
  }
}

TEST_CASE("session: forks go their own ways and share what they do not write") {
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    const auto text = tokens(90, 6), other = tokens(90, 7);
    auto mixed = text;
    std::copy(other.begin() + 45, other.end(), mixed.begin() + 45);
    const SessionOutput expected = whole(fixture, text, {}), expected_mixed = whole(fixture, mixed, {});

    InferenceSession session = fixture.session();
    session.prefill(std::span(text).first(45));
    CHECK(session.shared_memory_bytes() == 0);
    const std::size_t before = session.memory_bytes();
    std::optional<InferenceSession> fork(session.fork());
    CHECK(fork->length() == 45);
    CHECK(fork->memory_bytes() == before);
    CHECK(session.shared_memory_bytes() > 0);
    CHECK(session.shared_memory_bytes() == fork->shared_memory_bytes());
    const std::size_t shared = session.shared_memory_bytes();
    SessionOutput out;
    for (std::size_t t = 45; t < 90; ++t) {
      session.step(text[t], out);
      CHECK(agrees(expected, out, t, 1));
      fork->step(mixed[t], out);
      CHECK(agrees(expected_mixed, out, t, 1));
    }
    // The page that both went on to write is no longer shared, the page before it still is where `full` keeps
    // it.
    CHECK(session.shared_memory_bytes() > 0);
    CHECK(session.shared_memory_bytes() < shared);
    // A fork outlives what it was forked from.
    InferenceSession third = fork->fork();
    fork.reset();
    CHECK(third.shared_memory_bytes() == session.shared_memory_bytes());
    third.rewind(45);
    third.step(text[45], out);
    CHECK(agrees(expected, out, 45, 1));
  }
}

TEST_CASE("session: a rewound text goes on as if what was cut had never been") {
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    const auto text = tokens(90, 8), other = tokens(95, 9);
    for (const ForwardOptions& mode : all_modes()) {
      const SessionOutput expected = whole(fixture, text, mode);
      InferenceSession session = fixture.session(mode);
      SessionOutput out;
      for (const std::int64_t length : {0, 90, 89, 84, 83, 70, 40, 33, 32, 31, 1, 0}) {
        CAPTURE(length);
        session.rewind(0);
        const auto kept = std::size_t(length);
        if (kept > 0) session.prefill(std::span(text).first(kept));
        session.prefill(std::span(other).first(95 - kept));
        session.rewind(length);
        CHECK(session.length() == length);
        for (auto t = std::size_t(length); t < std::min<std::size_t>(90, std::size_t(length) + 15); ++t) {
          session.step(text[t], out);
          CHECK(agrees(expected, out, t, 1));
        }
      }
    }
  }
}

TEST_CASE("session: a full text is an error, or slides to a fresh session on its end") {
  Fixture fixture;
  const auto text = tokens(60, 10);
  SessionOutput out, expected;
  InferenceSession bounded = fixture.session({}, 40);
  bounded.prefill(std::span(text).first(40));
  CHECK(message_of<ValueError>([&] { bounded.step(1, out); }) ==
        "[session] length: expected at most 40 tokens, got 41");
  CHECK(bounded.length() == 40);

  for (const auto positions : all_positions) {
    CAPTURE(int(positions));
    Fixture each(small_config(Projections::shared, RouterKind::bayes, positions));
    for (const std::int64_t keep : {0, 1, 7, 39}) {
      CAPTURE(keep);
      SessionOptions options;
      options.max_length = 40;
      options.when_full = WhenFull::slide;
      options.slide_keep = keep;
      InferenceSession sliding(*each.ready, options);
      sliding.prefill(std::span(text).first(38));
      std::vector<std::int32_t> kept(text.begin(), text.begin() + 38);
      for (std::size_t t = 38; t < 60; ++t) {
        if (kept.size() == 40) kept.erase(kept.begin(), kept.end() - (keep == 0 ? 20 : keep));
        InferenceSession fresh(*each.ready, options);
        fresh.prefill(kept);
        kept.push_back(text[t]);
        sliding.step(text[t], out);
        fresh.step(text[t], expected);
        CHECK(same_bits(out.logits, expected.logits));
        CHECK(same_bits(out.layers[1].mean, expected.layers[1].mean));
        CHECK(std::equal(kept.begin(), kept.end(), sliding.tokens().begin(), sliding.tokens().end()));
      }
    }
  }
}

TEST_CASE("session: a text of one token slides to nothing but the next") {
  Fixture fixture;
  SessionOptions options;
  options.max_length = 1;
  options.when_full = WhenFull::slide;
  InferenceSession sliding(*fixture.ready, options);
  SessionOutput out;
  for (const std::int32_t token : tokens(4, 10)) {
    sliding.step(token, out);
    CHECK(agrees(whole(fixture, std::span(&token, 1), {}), out, 0, 1));
  }
}

TEST_CASE("session: memory is stated beforehand, constant for linear and the window for local") {
  for (const Config& variant : variants()) {
    CAPTURE(int(variant.model.positions));
    Fixture fixture(variant);
    const auto text = tokens(max_len, 11);
    for (const ForwardOptions& mode : all_modes()) {
      InferenceSession session = fixture.session(mode);
      SessionOutput out;
      std::size_t least = session.max_memory_bytes(), most = 0;
      const std::vector<ExpertKind> choice(2, mode.forced_expert.value_or(ExpertKind::linear));
      for (std::size_t t = 0; t < text.size(); ++t) {
        session.step(text[t], out, choice);
        CHECK(session.memory_bytes() <= session.max_memory_bytes());
        if (t >= 64) least = std::min(least, session.memory_bytes());
        if (t >= 64) most = std::max(most, session.memory_bytes());
      }
      const std::size_t page = 2 * 32 * 16 * 4;
      // Two pages of a window of 5 or a chunk of 12 positions at most, in both layers.
      if (mode.forced_expert && *mode.forced_expert != ExpertKind::full) {
        CHECK(most - least <= 2 * 2 * (page + 256));
        CHECK(session.max_memory_bytes() < 2 * 2 * page + 8000);
      } else {
        CHECK(session.memory_bytes() > 2 * 4 * page);
        CHECK(session.max_memory_bytes() - session.memory_bytes() < 2 * 3 * page);
      }
    }
  }
  Fixture fixture;
  CHECK(fixture.ready->memory_bytes() > 0);
  InferenceSession session = fixture.session();
  session.prefill(tokens(40, 12));
  const std::size_t held = session.memory_bytes();
  session.prefill(tokens(60, 13));
  CHECK(session.memory_bytes() > held);
  session.rewind(40);
  CHECK(session.memory_bytes() == held);  // the pages behind the cut are given back
  CHECK(fixture.session().max_memory_bytes() > fixture.session({}, 30).max_memory_bytes());
}

TEST_CASE("session: steps allocate nothing from the system once their sizes have been seen") {
  Fixture fixture;
  InferenceSession session = fixture.session();
  SessionOutput out;
  for (const std::int32_t token : tokens(32, 12)) session.step(token, out);
  session.rewind(0);  // gives its page back
  const auto before = fixture.context.allocator()->statistics().system_allocations;
  for (const std::int32_t token : tokens(32, 12)) session.step(token, out);
  CHECK(fixture.context.allocator()->statistics().system_allocations == before);
}

TEST_CASE("session: a model that trains on does not change its sessions") {
  Fixture fixture;
  const auto text = tokens(20, 13);
  const SessionOutput expected = whole(fixture, text, {});
  InferenceSession session = fixture.session();
  stir(fixture.model, 77);
  const std::size_t parts[] = {10, 1, 9};
  check_parts(session, text, expected, parts);
}

TEST_CASE("session: unusable input is refused before anything changes") {
  Fixture fixture;
  InferenceSession session = fixture.session({}, 30);
  SessionOutput out;
  const auto prompt = tokens(10, 14);
  session.prefill(prompt);
  const auto refused = [&](const std::function<void()>& action) {
    const std::string message = message_of<ValueError>(action);
    CHECK(session.length() == 10);
    return message;
  };
  CHECK(refused([&] { session.prefill(tokens(21, 1)); }) ==
        "[session] length: expected at most 30 tokens, got 31");
  CHECK(refused([&] { session.prefill({}); }) == "[session] tokens: expected at least one, got none");
  CHECK(refused([&] { session.step(11, out); }) == "[session] token: expected an id in [0, 11), got 11");
  CHECK(refused([&] { session.step(-1, out); }) == "[session] token: expected an id in [0, 11), got -1");
  const std::vector<std::int32_t> wrong = {1, 2, 99, 3};
  CHECK(refused([&] { session.prefill(wrong); }) == "[session] token: expected an id in [0, 11), got 99");
  const std::vector<ExpertKind> choice(5, ExpertKind::full);
  CHECK(refused([&] { session.step(1, out, choice); }) ==
        "[session] routing override: expected 2 entries (1 tokens x 2 layers), got 5");
  PrefillOptions options;
  options.routing = choice;
  CHECK(refused([&] { session.prefill(prompt, options); }) ==
        "[session] routing override: expected 20 entries (10 tokens x 2 layers), got 5");
  const std::vector<ExpertKind> nonsense(2, ExpertKind(9));
  CHECK(refused([&] { session.step(1, out, nonsense); }) ==
        "[session] routing override: expected an expert that this session keeps, got no expert");
  CHECK(refused([&] { session.rewind(11); }) == "[session] length: expected 0 to 10, got 11");
  CHECK(refused([&] { session.rewind(-1); }) == "[session] length: expected 0 to 10, got -1");

  ForwardOptions local;
  local.forced_expert = ExpertKind::local;
  InferenceSession forced = fixture.session(local);
  CHECK(message_of<ValueError>([&] { forced.step(1, out, std::span(choice).first(2)); }) ==
        "[session] routing override: expected an expert that this session keeps, got full");

  // A batch: the other session does not move either.
  InferenceSession other = fixture.session({}, 30);
  InferenceSession* const both[] = {&other, &session};
  std::vector<SessionOutput> outputs(2);
  const std::int32_t good[] = {1, 2}, bad[] = {1, 50};
  CHECK(refused([&] { InferenceSession::step(both, bad, outputs); }) ==
        "[session] token: expected an id in [0, 11), got 50");
  CHECK(refused([&] { InferenceSession::step(both, std::span(good).first(1), outputs); }) ==
        "[session] batch: expected 2 tokens and outputs, got 1 and 2");
  InferenceSession* const twice[] = {&other, &session, &other};
  outputs.resize(3);
  const std::int32_t three[] = {1, 2, 3};
  CHECK(message_of<StateError>([&] { InferenceSession::step(twice, three, outputs); }) ==
        "[session] use: expected one call at a time, got a second one");
  outputs.resize(2);
  Fixture second;
  InferenceSession elsewhere = second.session();
  InferenceSession* const apart[] = {&session, &elsewhere};
  CHECK(refused([&] { InferenceSession::step(apart, good, outputs); }) ==
        "[session] batch: expected sessions of one InferenceModel, got several");
  session.prefill(tokens(20, 15));
  CHECK(message_of<ValueError>([&] { InferenceSession::step(both, good, outputs); }) ==
        "[session] length: expected at most 30 tokens, got 31");
  CHECK(other.length() == 0);
  session.rewind(10);
  InferenceSession::step(both, good, outputs);  // every flag was given back
  CHECK(other.length() == 1);
}

TEST_CASE("session: options out of range") {
  Fixture fixture;
  const auto refusal = [&](const SessionOptions& options) {
    return message_of<ValueError>([&] { InferenceSession(*fixture.ready, options); });
  };
  SessionOptions options;
  options.max_length = 101;
  CHECK(refusal(options) == "[session] max_length: expected 0 to 100, the model's longest text, got 101");
  Fixture far(small_config(Projections::shared, RouterKind::bayes, Positions::rotary));
  options.max_length = longest_sequence + 1;
  CHECK(message_of<ValueError>([&] { InferenceSession(*far.ready, options); }) ==
        "[session] max_length: expected 0 to 1048576, the model's longest text, got 1048577");
  options.max_length = 20;
  options.when_full = WhenFull::slide;
  options.slide_keep = 20;
  CHECK(refusal(options) == "[session] slide_keep: expected 0 to 19, got 20");
  options = {};
  options.forward.training = true;
  CHECK(refusal(options) ==
        "[session] forward: expected evaluation without replaced_means, got another pass");
  Config config = small_config(Projections::per_expert, RouterKind::static_expert);
  Fixture fixed(config);
  options = {};
  options.forward.forced_expert = ExpertKind::local;
  CHECK(message_of<ValueError>([&] { InferenceSession(*fixed.ready, options); }) ==
        "[session] forced_expert: expected full, the only one of a static router, got local");
  Fixture softmax(small_config(Projections::shared, RouterKind::softmax));
  options = {};
  options.forward.routing = RoutingMode::gated;
  CHECK(message_of<ValueError>([&] { InferenceSession(*softmax.ready, options); }) ==
        "[session] gate: expected max_mean for a router without a Dirichlet, got mi");
  const Context context({.threads = 1});
  LanguageModel precise(context, small_config(Projections::shared), vocabulary, 3, DType::f64);
  CHECK(message_of<ValueError>([&] { InferenceModel(context, precise); }) ==
        "[session] embed.weight: expected f32, got f64");
}

TEST_CASE("session: used after its model is gone, it says so") {
  Fixture fixture;
  InferenceSession session = fixture.session();
  SessionOutput out;
  session.step(1, out);
  InferenceModel moved = std::move(*fixture.ready);
  session.step(2, out);  // the model has moved, but lives
  { const InferenceModel gone = std::move(moved); }
  const std::string message = "[session] model: expected an InferenceModel that exists, got one that is gone";
  InferenceSession* const batch[] = {&session};
  const std::int32_t token[] = {1};
  CHECK(message_of<StateError>([&] { session.step(1, out); }) == message);
  CHECK(message_of<StateError>([&] { session.prefill(token); }) == message);
  CHECK(message_of<StateError>([&] { InferenceSession::step(batch, token, std::span(&out, 1)); }) == message);
  CHECK(message_of<StateError>([&] { session.rewind(0); }) == message);
  CHECK(message_of<StateError>([&] { session.fork(); }) == message);
  CHECK(session.length() == 2);
}

TEST_CASE("session: two threads at once get an error or their turn, never a mixture") {
  Fixture fixture;
  InferenceSession session = fixture.session();
  std::atomic<std::int64_t> done{0}, refused{0};
  std::atomic<int> waiting{2};
  const auto work = [&] {
    SessionOutput out;
    --waiting;
    while (waiting > 0) std::this_thread::yield();
    for (int i = 0; i < 40; ++i) {
      try {
        session.step(i % vocabulary, out);
        ++done;
      } catch (const StateError&) {
        ++refused;
      }
    }
  };
  std::thread first(work), second(work);
  first.join();
  second.join();
  CHECK(done + refused == 80);
  CHECK(done >= 1);
  CHECK(session.length() == done);
  const std::vector<std::int32_t> text(session.tokens().begin(), session.tokens().end());
  SessionOutput out;
  session.step(3, out);
  auto longer = text;
  longer.push_back(3);
  CHECK(agrees(whole(fixture, longer, {}), out, text.size(), 1));
}

TEST_CASE("session: forks on several threads") {
  Fixture fixture;
  const auto text = tokens(90, 16);
  const SessionOutput expected = whole(fixture, text, {});
  InferenceSession session = fixture.session();
  session.prefill(std::span(text).first(40));
  std::vector<InferenceSession> forks;
  for (int i = 0; i < 4; ++i) forks.push_back(session.fork());
  std::vector<int> wrong(forks.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < forks.size(); ++i) {
    threads.emplace_back([&, i] {
      SessionOutput out;
      for (std::size_t t = 40; t < 90; ++t) {
        forks[i].step(text[t], out);
        wrong[i] += agrees(expected, out, t, 1) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::count(wrong.begin(), wrong.end(), 0) == 4);
}
