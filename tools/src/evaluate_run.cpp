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

AlignedWindows align_windows(const DataSource& source, std::int64_t bytes, std::int64_t wanted) {
  AlignedWindows windows{bytes, {}};
  const std::int64_t available = source.evaluation(bytes).windows();
  const std::int64_t count = wanted == 0 ? available : std::min(wanted, available);
  for (std::int64_t i = 0; i < count; ++i) windows.chosen.push_back(i * available / count);
  return windows;
}

meta::EvaluationText aligned_text(const DataSource& source, const AlignedWindows& windows,
                                  std::int64_t length) {
  meta::EvaluationText text = evaluation_text(source, source.evaluation(length));
  const std::int64_t parts = windows.bytes / length;
  const std::int64_t available = text.windows;
  text.windows = static_cast<std::int64_t>(windows.chosen.size()) * parts;
  const auto window_number = [chosen = windows.chosen, parts](std::int64_t index) {
    return chosen[static_cast<std::size_t>(index / parts)] * parts + index % parts;
  };
  text.window = [read = text.window, window_number, available](std::int64_t index,
                                                               const meta::EvaluationWindow& to) {
    const std::int64_t window = window_number(index);
    // A synthetic language has no more windows of a short length than of a long one: other bytes, refused.
    if (window < available) read(window, to);
  };
  if (text.predictive) {
    text.predictive = [exact = text.predictive, window_number, available](std::int64_t index) {
      const std::int64_t window = window_number(index);
      return window < available ? exact(window) : std::vector<double>();
    };
  }
  return text;
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
  return result_file_name("eval-" + std::string(meta::name_of(mode)), options);
}

std::string result_file_name(std::string name, const std::string& options) {
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
