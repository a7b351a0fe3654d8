// Training runs: repeatable bit by bit, over thread counts and over interruptions.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data_source.hpp"
#include "dirigo/core/errors.hpp"
#include "generate.hpp"
#include "tools_fixture.hpp"
#include "trainer.hpp"

using namespace dirigo;
using namespace dirigo::tools;
using namespace dirigo::test;

namespace {

// Everything that a trainer refers to.
struct Setup {
  Setup(const std::string& corpus, std::string directory, int threads = 1)
      : Setup(small_config(corpus), std::move(directory), threads) {}
  Setup(const meta::Config& config, std::string directory, int threads = 1)
      : context(options(threads)), run(std::move(directory)), source(make_run_source(config)) {
    description.config = config;
    for (const int byte : source->vocabulary().byte_values()) {
      description.vocabulary.push_back(static_cast<std::uint8_t>(byte));
    }
    description.version = "test";
    description.corpora = describe_corpora(*source);
    trainer = std::make_unique<Trainer>(context, description, *source, run);
  }
  static Context::Options options(int threads) {
    Context::Options options;
    options.threads = threads;
    return options;
  }
  // Trains to `last_step`, or to the end.
  bool train(std::int64_t last_step = std::numeric_limits<std::int64_t>::max()) {
    return trainer->train([&](const Trainer::Progress& step) {
      last_nll = step.report.nll;
      return step.report.step < last_step;
    });
  }

  Context context;
  std::string run;
  std::unique_ptr<DataSource> source;
  meta::RunDescription description;
  std::unique_ptr<Trainer> trainer;
  double last_nll = 0;
};

// metrics.jsonl without its times.
std::string metrics_of(const std::string& run) {
  std::istringstream lines(read_file(run + "/metrics.jsonl"));
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    REQUIRE(json.erase("tokens_per_s") == 1);
    text += json.dump() + "\n";
  }
  return text;
}

void check_same_run(const std::string& a, const std::string& b) {
  CHECK_FALSE(metrics_of(a).empty());
  CHECK(metrics_of(a) == metrics_of(b));
  for (const char* file : {"/model.safetensors", "/best.safetensors", "/checkpoint/latest",
                           "/checkpoint/step-30/optimizer.safetensors", "/checkpoint/step-30/state.json"}) {
    CAPTURE(file);
    CHECK_FALSE(read_file(a + file).empty());
    CHECK(read_file(a + file) == read_file(b + file));
  }
}

}  // namespace

TEST_CASE("train: one and two threads give the same bits; another seed does not") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  for (const int threads : {1, 2}) {
    Setup setup(directory / "text", directory / std::to_string(threads), threads);
    setup.trainer->start();
    CHECK(setup.train());
  }
  check_same_run(directory / "1", directory / "2");

  meta::Config config = small_config(directory / "text");
  config.train.seed = 2;
  Setup other(config, directory / "other");
  other.trainer->start();
  other.train();
  CHECK(read_file(directory / "1/model.safetensors") != read_file(directory / "other/model.safetensors"));
}

TEST_CASE("train: interrupted and resumed gives the same bits as going through") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup whole(directory / "text", directory / "whole");
  whole.trainer->start();
  CHECK(whole.train());

  for (const std::int64_t stop : {1, 13, 24}) {
    CAPTURE(stop);
    const std::string run = directory / ("stopped-" + std::to_string(stop));
    {
      Setup first(directory / "text", run);
      first.trainer->start();
      CHECK_FALSE(first.train(stop));
    }
    Setup second(directory / "text", run, 2);
    second.trainer->resume();
    CHECK(second.trainer->state().step == stop);
    CHECK(second.train());
    check_same_run(directory / "whole", run);
  }
}

TEST_CASE("train: a process killed between two files resumes from the last complete checkpoint") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup whole(directory / "text", directory / "whole");
  whole.trainer->start();
  whole.train();
  const std::string run = directory / "killed";
  Setup first(directory / "text", run);
  first.trainer->start();
  first.train(12);
  // What such a process may leave: later metrics, half a line, half a checkpoint, newer weights on top.
  write_file(run + "/metrics.jsonl",
             read_file(run + "/metrics.jsonl") + "{\"step\":20,\"nll\":1}\n{\"step\":3");
  fs::create_directory(run + "/checkpoint/step-20");
  write_file(run + "/checkpoint/step-20/model.safetensors", "half");
  write_file(run + "/model.safetensors", "half");

  Setup second(directory / "text", run);
  second.trainer->resume();
  CHECK(second.trainer->state().step == 12);
  second.train();
  check_same_run(directory / "whole", run);
  CHECK_FALSE(fs::exists(run + "/checkpoint/step-20"));
}

TEST_CASE("train: controllers keep their initial weights while the router warms up") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  meta::Config config = small_config(directory / "text");
  config.router.warmup = 4;
  Setup setup(config, directory / "run");
  setup.trainer->start();
  const auto values = [&](bool controllers) {
    std::vector<std::vector<double>> result;
    for (const auto& [name, parameter] : setup.trainer->model().parameters()) {
      const bool controller = name.find(".controller.") != std::string::npos;
      if (controller == controllers) result.push_back(parameter->value.to_vector());
    }
    return result;
  };
  const auto initial = values(true), others = values(false);
  REQUIRE_FALSE(initial.empty());
  setup.train(4);
  CHECK(values(true) == initial);
  CHECK(values(false) != others);
  setup.train(5);
  CHECK(values(true) != initial);
}

TEST_CASE("train: learns a periodic text") {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "abcdefgh";
  write_file(directory / "text", text);
  meta::Config config = small_config(directory / "text");
  config.train.steps = 100;
  Setup setup(config, directory / "run");
  setup.trainer->start();
  setup.train();
  CHECK(setup.last_nll < 0.2);  // uniform: ln 8 = 2.08
  REQUIRE(setup.trainer->state().best_valid_nll);
  CHECK(*setup.trainer->state().best_valid_nll < 0.2);
}

TEST_CASE("train: stops at a loss that is not finite, says where, and keeps the last checkpoint") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup setup(directory / "text", directory / "run");
  setup.trainer->start();
  setup.train(12);
  const std::string kept = read_file(directory / "run/checkpoint/step-12/model.safetensors");
  for (const auto& [name, parameter] : setup.trainer->model().parameters()) {
    if (name == "blocks.1.ffn.fc1.weight") parameter->value.fill(std::numeric_limits<double>::quiet_NaN());
  }
  std::string message;
  try {
    setup.train();
  } catch (const NumericError& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("step 13") != std::string::npos);
  CHECK(message.find("step 12 is kept") != std::string::npos);
  CHECK(message.find("blocks.1.ffn.fc1.weight") != std::string::npos);
  CHECK(read_file(directory / "run/checkpoint/latest") == "{\"format_version\":1,\"step\":12}\n");
  CHECK(read_file(directory / "run/checkpoint/step-12/model.safetensors") == kept);
}

TEST_CASE("train: a damaged checkpoint is refused by name") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup setup(directory / "text", directory / "run");
  setup.trainer->start();
  setup.train(12);
  const std::string checkpoint = directory / "run/checkpoint/";
  for (const std::string file :
       {"latest", "step-12/model.safetensors", "step-12/optimizer.safetensors", "step-12/state.json"}) {
    CAPTURE(file);
    const std::string content = read_file(checkpoint + file);
    write_file(checkpoint + file, content.substr(0, content.size() / 2));
    CHECK_THROWS_AS(Setup(directory / "text", directory / "run").trainer->resume(), IoError);
    fs::remove(checkpoint + file);
    CHECK_THROWS_AS(Setup(directory / "text", directory / "run").trainer->resume(), IoError);
    write_file(checkpoint + file, content);
  }
  CHECK_NOTHROW(Setup(directory / "text", directory / "run").trainer->resume());
}

TEST_CASE("train: a run's corpus must still have its bytes") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const Setup setup(directory / "text", directory / "run");
  CHECK_NOTHROW(make_run_source(setup.description));
  std::string text = small_text();
  text[100] = text[100] == 'a' ? 'e' : 'a';
  write_file(directory / "text", text);
  CHECK_THROWS_AS(make_run_source(setup.description), ValueError);
}

TEST_CASE("train: a directory that cannot be made leaves nothing") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup setup(directory / "text", directory / "text/run");
  CHECK_THROWS_AS(setup.trainer->start(), IoError);
  CHECK(read_file(directory / "text") == small_text());
}

TEST_CASE("generate: prompt, then tokens, repeatable, over the model's window") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  Setup setup(directory / "text", directory / "run");
  const std::vector<std::int32_t> prompt{3, 1, 2};
  GenerateOptions options;
  options.tokens = 40;  // max_len is 16
  const auto sample = [&](std::uint64_t seed) {
    options.seed = seed;
    std::vector<std::int32_t> tokens;
    generate(setup.context, setup.trainer->model(), prompt, options, [&](const GeneratedToken& token) {
      CHECK(token.from_prompt == (tokens.size() < prompt.size()));
      CHECK(token.chosen.size() == 2);
      tokens.push_back(token.token);
      return true;
    });
    return tokens;
  };
  const auto first = sample(1);
  REQUIRE(first.size() == prompt.size() + 40);
  CHECK(std::vector<std::int32_t>(first.begin(), first.begin() + 3) == prompt);
  CHECK(sample(1) == first);
  CHECK(sample(2) != first);

  // Each token comes from a pass over the last 16 tokens before it.
  options.temperature = 0;
  auto text = std::vector<std::int32_t>(20, 1);
  std::size_t at = 0;
  generate(setup.context, setup.trainer->model(), text, options, [&](const GeneratedToken& token) {
    if (at++ < 20) {
      CHECK(token.chosen.size() == (at <= 4 ? 0 : 2));  // the model sees the end of a long prompt
      return true;
    }
    Tape tape(setup.context, Tape::Mode::inference);
    const auto forward =
        setup.trainer->model()(tape, std::span(text).last(std::min<std::size_t>(16, text.size())), 1,
                               std::min<std::int64_t>(16, std::int64_t(text.size())), options.forward);
    const auto logits = forward.logits.value().span<float>();
    const auto last = logits.last(std::size_t(setup.trainer->model().vocabulary()));
    CHECK(token.token == std::max_element(last.begin(), last.end()) - last.begin());
    text.push_back(token.token);
    return true;
  });
  CHECK(text.size() == 60);
  options.temperature = 1;

  options.top_k = 1;  // the most probable token, as at temperature 0
  const auto greedy = sample(1);
  options.top_k = 0;
  options.temperature = 0;
  CHECK(sample(5) == greedy);
  options.temperature = -1;
  CHECK_THROWS_AS(sample(1), ValueError);
}

TEST_CASE("evaluation_text: the windows of the source") {
  const TemporaryDirectory directory;
  write_file(directory / "text", small_text());
  const auto source = make_run_source(small_config(directory / "text"));
  const EvaluationSet set = source->evaluation(16, 0, 5);
  const meta::EvaluationText text = evaluation_text(*source, set);
  CHECK(text.windows == 5);
  CHECK(text.length == 16);
  CHECK(text.need_names.empty());
  std::vector<std::int32_t> inputs(16), targets(16);
  text.window(3, {inputs, targets, {}, {}});
  CHECK(inputs == set.batch(3, 1).inputs);
  CHECK(targets == set.batch(3, 1).targets);
}
