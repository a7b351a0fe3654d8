// Measured cost models: the file, what is refused, and how a configuration takes it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dirigo/core/errors.hpp"
#include "dirigo/meta_attention/cost_model.hpp"
#include "dirigo/meta_attention/expert.hpp"
#include "dirigo/meta_attention/language_model.hpp"

using namespace dirigo;
using namespace dirigo::meta;
using nlohmann::json;

namespace {

const MeasuredCosts measured{.isa = "avx2",
                             .threads = 2,
                             .seq_len = 4096,
                             .d_model = 128,
                             .heads = 4,
                             .window = 32,
                             .chunk = 64,
                             .microseconds_per_token = {8, 2, 1},
                             .spread = {0.01, 0.02, 0.03}};

class File {
 public:
  File() : path_((std::filesystem::temp_directory_path() / "dirigo-cost-model-XXXXXX").string()) {
    close(mkstemp(path_.data()));
  }
  ~File() { std::filesystem::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  const std::string& write(const std::string& content) const {
    std::ofstream(path_, std::ios::binary) << content;
    return path_;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string message(const std::string& path) {
  try {
    read_cost_model(path);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("cost model: costs are times over that of full, read over the largest") {
  const File file;
  const json written = json::parse(cost_model_json(measured));
  CHECK(written["format_version"] == 1);
  CHECK(written["costs"]["full"] == 1);
  CHECK(written["costs"]["linear"] == 0.25);
  CHECK(written["costs"]["local"] == 0.125);
  CHECK(written["spread"]["local"] == 0.03);
  CHECK(written["attention"]["window"] == 32);
  CHECK(read_cost_model(file.write(cost_model_json(measured))) == std::vector<double>{1, 0.25, 0.125});
  MeasuredCosts short_text = measured;  // at small T full is not the dearest
  short_text.microseconds_per_token = {2, 4, 1};
  CHECK(json::parse(cost_model_json(short_text))["costs"]["linear"] == 2);
  CHECK(read_cost_model(file.write(cost_model_json(short_text))) == std::vector<double>{0.5, 1, 0.25});
}

TEST_CASE("cost model: what is wrong is named with its file, field and what was expected") {
  const File file;
  const json good = json::parse(cost_model_json(measured));
  const auto refused = [&](const char* pointer, const json& value, const std::string& words) {
    json bad = good;
    bad[json::json_pointer(pointer)] = value;
    const std::string text = message(file.write(bad.dump()));
    CAPTURE(text);
    CHECK(text.find("[" + file.path() + "] ") == 0);
    CHECK(text.find(words) != std::string::npos);
  };
  refused("/format_version", 2, "format_version: expected 1, got 2");
  refused("/format_version", "1", "format_version: expected a whole number");
  refused("/isa", 3, "isa: expected text, got 3");
  refused("/threads", 0, "threads: expected a whole number >= 1, got 0");
  refused("/seq_len", 1.5, "seq_len: expected a whole number >= 1, got 1.5");
  refused("/attention", 7, "attention: expected an object, got 7");
  refused("/attention/heads", -1, "attention.heads: expected a whole number >= 1, got -1");
  refused("/costs", json::array({1, 2, 3}), "costs: expected an object");
  refused("/costs/linear", 0, "costs.linear: expected a number > 0, got 0");
  refused("/costs/local", nullptr, "costs.local: expected a number > 0, got null");
  refused("/costs/full", 0.5, "costs.full: expected 1, the unit of the others, got 0.5");
  refused("/microseconds_per_token/full", -2, "microseconds_per_token.full: expected a number > 0");
  refused("/spread/full", -0.1, "spread.full: expected a number >= 0");
  for (const auto& item : good.items()) {
    json bad = good;
    bad.erase(item.key());
    const std::string text = message(file.write(bad.dump()));
    CAPTURE(text);
    CHECK(text.find(item.key() + ": expected") != std::string::npos);
    CHECK(text.find("got nothing") != std::string::npos);
  }
  CHECK(message(file.write("{")).find("expected a JSON object, got invalid JSON") != std::string::npos);
  CHECK(message(file.write("[]")).find("expected a JSON object, got array") != std::string::npos);
  CHECK_THROWS_AS(read_cost_model(file.path() + "-missing"), IoError);
}

TEST_CASE("cost model: a configuration keeps the costs of a file, which may then vanish") {
  Config config = preset("tiny");
  {
    const File file;
    set_field(config, "router.cost_model", file.write(cost_model_json(measured)));
  }
  resolve(config);
  CHECK(config.router.cost_model == CostModel::measured);
  CHECK(config.router.costs == std::vector<double>{1, 0.25, 0.125});
  const Config again = config_from_json(config_to_json(config), "test");
  CHECK(again.router.cost_model == CostModel::measured);
  CHECK(again.router.costs == config.router.costs);
  CHECK(expert_costs(again, 64) == config.router.costs);
  const Context context({.threads = 1});
  LanguageModel model(context, again, 11, 1);
  CHECK(std::vector<double>(model.costs().begin(), model.costs().end()) == config.router.costs);
  CHECK(model.prior()[1] == 0.01 + 0.75);

  const auto fault = [&](const char* value) {
    try {
      set_field(config, "router.cost_model", value);
    } catch (const ValueError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(fault("analitic").find("did you mean 'analytic'") != std::string::npos);
  CHECK(fault("no/such/file.json").find("a file of dirigo bench cost-model") != std::string::npos);
  CHECK(fault("3").find("router.cost_model: expected one of nominal, analytic, measured") !=
        std::string::npos);
  CHECK(config.router.cost_model == CostModel::measured);
  const File broken;
  CHECK(fault(broken.write("{}").c_str()).find(broken.path()) != std::string::npos);
  CHECK(config.router.costs == std::vector<double>{1, 0.25, 0.125});
}

TEST_CASE("configuration: positions and hard-routed training") {
  Config config = preset("tiny");
  for (const char* name : {"learned", "rotary", "window_bias"}) {
    set_field(config, "model.positions", name);
    resolve(config);
    CHECK(config_to_json(config).find(std::string("\"positions\": \"") + name) != std::string::npos);
    CHECK(config_from_json(config_to_json(config), "test").model.positions == config.model.positions);
  }
  CHECK_THROWS_AS(set_field(config, "model.positions", "rotry"), ValueError);
  config.model.positions = Positions::rotary;
  config.model.d_model = 12;
  config.model.heads = 4;
  CHECK_THROWS_AS(resolve(config), ValueError);  // three per head
  config.model.heads = 3;
  resolve(config);

  set_field(config, "train.hard_routed", "0.5");
  set_field(config, "train.explore", "0.25");
  resolve(config);
  CHECK(config.train.hard_routed == 0.5);
  CHECK(config_from_json(config_to_json(config), "test").train.explore == 0.25);
  CHECK_THROWS_AS(set_field(config, "train.explore", "0"), ValueError);
  CHECK_THROWS_AS(set_field(config, "train.explore", "1.5"), ValueError);
  CHECK_THROWS_AS(set_field(config, "train.hard_routed", "2"), ValueError);
  config.router.kind = RouterKind::static_expert;
  CHECK_THROWS_AS(resolve(config), ValueError);
  set_field(config, "train.hard_routed", "off");
  resolve(config);
}
