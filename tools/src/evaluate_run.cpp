#include "evaluate_run.hpp"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

namespace dirigo::tools {

namespace {

const meta::RunDescription::Corpus* find_role(const std::vector<meta::RunDescription::Corpus>& corpora,
                                              const std::string& role) {
  const auto found =
      std::find_if(corpora.begin(), corpora.end(), [&](const auto& c) { return c.role == role; });
  return found == corpora.end() ? nullptr : &*found;
}

bool same_bytes(const meta::RunDescription::Corpus* a, const meta::RunDescription::Corpus* b) {
  return a && b && !a->sha256.empty() && a->sha256 == b->sha256;
}

// A synthetic language's evaluation stream never trains; a file may be one that the run has read.
std::string label(const meta::RunDescription& run, const DataSource& source) {
  const auto corpora = describe_corpora(source);
  const auto* text = find_role(corpora, "corpus");
  if (text && text->sha256.empty()) return "held-out text";
  if (same_bytes(text, find_role(run.corpora, "corpus"))) return "training text";
  return same_bytes(text, find_role(run.corpora, "valid")) ? "held-out text" : "other text";
}

}  // namespace

TextLabel own_text(const meta::RunDescription& run) {
  const bool trained_on_it = same_bytes(find_role(run.corpora, "valid"), find_role(run.corpora, "corpus"));
  return {run.config.data.valid.empty() ? run.config.data.corpus : run.config.data.valid,
          trained_on_it ? "training text" : "held-out text"};
}

OpenedText open_evaluation_text(const meta::RunDescription& run, const std::optional<std::string>& corpus) {
  if (corpus) {
    auto source = make_evaluation_source(run, *corpus);
    const std::string evaluated_on = label(run, *source);
    return {std::move(source), {*corpus, evaluated_on}};
  }
  return {make_run_source(run), own_text(run)};
}

std::string evaluation_json(const meta::Evaluation& evaluation, const std::string& run, const TextLabel& text,
                            const std::string& options) {
  auto json = nlohmann::ordered_json::parse(meta::to_json(evaluation));
  json["run"] = run;
  json["corpus"] = text.corpus;
  json["evaluated_on"] = text.evaluated_on;
  json["options"] = options;
  // A path need not be UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string evaluation_file_name(meta::RoutingMode mode, const std::string& options) {
  std::string name = "eval-" + std::string(meta::name_of(mode));
  if (!options.empty()) name += '-';
  for (const char c : options) {
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '.') {
      name += c;
    } else if (name.back() != '-') {
      name += '-';
    }
  }
  return name.substr(0, 200) + ".json";
}

}  // namespace dirigo::tools
