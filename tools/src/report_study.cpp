#include "report_study.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "report_chart.hpp"
#include "report_json.hpp"
#include "report_text.hpp"

namespace dirigo::tools {

namespace {

// An object of the file, and where it stands there, for messages.
class Record {
 public:
  Record(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {
    if (!json.is_object()) refuse(where_, "record", "a JSON object", json);
  }

  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }
  bool has(const char* key) const { return !member(*json_, key).is_null(); }
  std::optional<double> number(const char* key) const { return optional_number(*json_, key, where_); }
  std::string text(const char* key) const { return tools::text(*json_, key, ""); }
  bool flag(const char* key) const { return member(*json_, key) == Json(true); }
  Record object(const char* key) const {
    return {has(key) ? member(*json_, key) : empty(), where_ + "." + key};
  }

  std::optional<Interval> interval(const char* key) const {
    const Json& value = member(*json_, key);
    if (value.is_null()) return std::nullopt;
    if (!value.is_array() || value.size() != 2 || !value[0].is_number() || !value[1].is_number())
      refuse(where_, key, "[low, high]", value);
    return Interval{value[0].get<double>(), value[1].get<double>()};
  }

  // A list of numbers; nulls become NaN.
  std::vector<double> numbers(const char* key) const {
    std::vector<double> values;
    const Json& list = member(*json_, key);
    if (list.is_null()) return values;
    if (!list.is_array()) refuse(where_, key, "a list of numbers", list);
    for (const Json& item : list) {
      if (!item.is_number() && !item.is_null()) refuse(where_, key, "a list of numbers", item);
      values.push_back(item.is_null() ? std::nan("") : item.get<double>());
    }
    return values;
  }

  // For people: whatever JSON the value is.
  std::string shown(const char* key) const {
    const Json& value = member(*json_, key);
    if (value.is_string()) return value.get<std::string>();
    return value.is_number() ? fmt::format("{:.6g}", value.get<double>())
           : value.is_null() ? ""
                             : value.dump();
  }

 private:
  static const Json& empty() {
    static const Json object = Json::object();
    return object;
  }
  const Json* json_;
  std::string where_;
};

using Records = std::vector<Record>;

Records records(const Json& list, const std::string& where) {
  Records all;
  if (list.is_null()) return all;
  if (!list.is_array()) refuse(where, "records", "a list", list);
  for (std::size_t i = 0; i < list.size(); ++i) all.emplace_back(list[i], fmt::format("{}[{}]", where, i));
  return all;
}

// The records by the value of a function of them, groups in order of appearance.
using Groups = std::vector<std::pair<std::string, Records>>;
Groups group(const Records& all, const std::function<std::string(const Record&)>& key) {
  Groups groups;
  for (const Record& record : all) {
    const std::string name = key(record);
    const auto found =
        std::find_if(groups.begin(), groups.end(), [&](const auto& one) { return one.first == name; });
    if (found == groups.end()) {
      groups.push_back({name, {record}});
    } else {
      found->second.push_back(record);
    }
  }
  return groups;
}
Groups group(const Records& all, const char* key) {
  return group(all, [key](const Record& record) { return record.shown(key); });
}

// Numbers as tables show them.
std::string cell(std::optional<double> value, int decimals) {
  if (!value || !std::isfinite(*value)) return none;
  const bool zero = std::abs(*value) < 0.5 * std::pow(10, -decimals);  // not "-0.0"
  return fmt::format("{:.{}f}", zero ? 0 : *value, decimals);
}
std::string percent(std::optional<double> ratio) {
  return ratio ? cell(100 * *ratio, 1) : none;
}

// "1.7123", or "1.7123 ± 0.0042" where there is an interval.
std::string estimate(std::optional<double> mean, const std::optional<Interval>& interval) {
  std::string shown = cell(mean, 4);
  if (mean && interval) append(shown, " &plusmn; {:.4f}", interval->high - *mean);
  return shown;
}

class HtmlTable {
 public:
  explicit HtmlTable(const std::string& name)
      : html_(fmt::format(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table><thead><tr>",
            escape_html(name))) {}
  void head(const std::string& title, const std::string& meaning = "") {
    append(html_, "<th scope=\"col\"{}>{}</th>",
           meaning.empty() ? "" : fmt::format(" title=\"{}\"", escape_html(meaning)), escape_html(title));
  }
  void row(const char* style = "") {
    append(html_, "</tr>{}\n<tr{}>", body_ ? "" : "</thead><tbody>", style);
    body_ = true;
  }
  // Is HTML already.
  void add(const std::string& html) { append(html_, "<td>{}</td>", html); }
  void add_text(const std::string& text) { add(text.empty() ? none : escape_html(text)); }
  // A share in [0, 1] as its ground.
  void add_heat(double share, const std::string& html) {
    append(html_, "<td class=\"heat heat-{}\">{}</td>", std::lround(10 * std::clamp(share, 0.0, 1.0)), html);
  }
  std::string finish() const {
    return html_ + (body_ ? "</tr></tbody>" : "</tr></thead>") + "</table></div>\n";
  }

 private:
  std::string html_;
  bool body_ = false;
};

// Nothing for a chart without a finite point: of most studies some numbers are null.
std::string drawn(const Chart& chart) {
  const std::string html = chart_html(chart);
  return html.find("<canvas") == html.npos ? "" : html;
}

// All that a study.json holds, and the names of its arms.
class Page {
 public:
  Page(const Json& json, const std::string& where) : study_(json, where) {
    if (member(json, "format_version") != Json(1))
      refuse(where, "format_version", "1", member(json, "format_version"));
    rows_ = records(array(json, "rows", where), where + " rows");
    for (const Record& row : rows_) {
      if (row.text("method").empty()) refuse(row.where(), "method", "a name", member(row.json(), "method"));
      if (row.text("method") != "null_router") labels_.emplace(arm(row), row.text("label"));
      if (row.has("exhibit")) exhibits_.insert(arm(row));
    }
    several_lengths_ = group(rows_, "seq_len").size() > 1;
    boundary_ = take("tables", "boundary");
    for (const char* key : {"beta0", "eps"}) {
      if (group(boundary_, key).size() > 1) varied_.insert(key);
    }
    for (const Record& record : boundary_)
      families_[arm(record)] = {variant(record), "w_kl " + record.shown("w_kl")};
  }

  std::string html() {
    std::string html =
        fmt::format("<section>\n<h2 id=\"study\">Study {}{}</h2>\n", escape_html(study_.text("study")),
                    study_.has("corpus") ? ": " + escape_html(study_.text("corpus")) : "");
    html +=
        "<p>Means over seeds with half the width of their 95% interval (Student's t), on test text that no "
        "choice has read. FLOPs are those that ran.</p>\n";
    html += by_corpus(rows_, [this](const Records& rows) { return rows_html(rows); });
    html += grid_html();
    html += pareto_html() + collapse_html() + eta_html() + need_html() + emergence_html();
    html +=
        curves_html("recall", "Recall bytes during training") + curves_html("training", "During training");
    return html + other_tables() + "</section>\n";
  }

  std::vector<std::string> runs() const {
    std::vector<std::string> names;
    for (const Record& row : rows_) {
      const Json& runs = member(row.json(), "runs");
      if (!runs.is_array() || runs.empty() || !runs[0].is_string()) continue;
      const auto name = runs[0].get<std::string>();
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return names;
  }

 private:
  static std::string arm(const Record& record) {
    return record.has("arm") ? record.text("arm") : record.text("method");
  }
  // The arm for people, with its length if that is not the same for all.
  std::string label(const Record& record) const {
    std::string name = record.text("label");
    if (const auto found = labels_.find(arm(record)); name.empty() && found != labels_.end())
      name = found->second;
    if (name.empty()) name = arm(record);
    if (exhibits_.count(arm(record)) > 0) name += " (exhibit)";
    if (several_lengths_ && record.has("seq_len")) name += ", T=" + record.shown("seq_len");
    return name;
  }

  Records take(const char* kind, const char* name) {
    const Record& of = study_.object(kind);
    taken_.insert(std::string(kind) + "." + name);
    return records(member(of.json(), name), of.where() + "." + name);
  }

  // One part for each corpus, under its name if there are several: numbers of different texts are never
  // compared.
  static std::string by_corpus(const Records& all, const std::function<std::string(const Records&)>& part) {
    const Groups groups = group(all, [](const Record& record) {
      std::string name = record.shown("corpus");
      if (name.rfind("synthetic:", 0) == 0 && record.has("seq_len")) name += ", T=" + record.shown("seq_len");
      return name;
    });
    std::string html;
    for (const auto& [corpus, of_it] : groups) {
      if (groups.size() > 1)
        append(html, "<h4>On {}</h4>\n", escape_html(corpus.empty() ? "unknown text" : corpus));
      html += part(of_it);
    }
    return html;
  }

  std::string variant(const Record& record) const;
  std::pair<std::string, std::string> family(const Record& record) const;
  std::string rows_html(const Records& rows) const;
  Chart ranking_chart(const Records& rows) const;
  std::string grid_html() const;
  std::string collapse_html();
  std::string boundary_table(const Records& boundary) const;
  std::string curves_html(const char* name, const char* title);
  std::string pareto_html();
  Chart pareto_chart(const Records& points, const std::array<const char*, 3>& what) const;
  std::string eta_html();
  std::string need_html();
  std::string emergence_html();
  std::string record_table(const Records& all, const std::string& name) const;
  std::string other_tables();

  Record study_;
  Records rows_;
  std::map<std::string, std::string> labels_;
  std::set<std::string> exhibits_;  // arms that are in no ranking
  Records boundary_;
  std::set<std::string> varied_;  // of the prior's strength
  std::map<std::string, std::pair<std::string, std::string>> families_;
  bool several_lengths_ = false;
  std::set<std::string> taken_;              // what has been shown
  std::vector<std::unique_ptr<Json>> made_;  // records that are not in the file
};

struct Column {
  const char* title;
  const char* meaning;
};
constexpr Column columns[] = {
    {"method", "The arm; the null router is a controller that emits the prior for every token."},
    {"seeds", "Runs with a result; +n: runs whose training left the finite numbers."},
    {"lr", "Learning rate with the lowest development NLL (hard routing) of the grid below."},
    {"NLL hard", "Test text, nats per byte, one expert per token; half the width of the 95% interval."},
    {"NLL soft", "The same with all experts mixed."},
    {"NLL gated", "Hard where the posterior is certain (MI), soft elsewhere."},
    {"sampled%", "Entropy of weights drawn from the posterior, in percent of ln 3."},
    {"cost%", "Projected cost under the nominal cost model."},
    {"argmax cost%", "The same if each token runs its most probable expert."},
    {"KL", "Of the posterior from the prior; near 0 is collapse."},
    {"MI", "Mutual information of token and expert: 0 means that routing ignores the token."},
    {"permuted", "NLL change when the routing is permuted over the tokens: 0 means it does not matter."},
    {"attention FLOPs%", "That ran under hard routing, in percent of full attention everywhere."},
    {"model FLOPs%", "The same for the whole model."},
    {"train s", "Seconds of a training, on one thread beside the other runs."},
};

std::string Page::rows_html(const Records& rows) const {
  HtmlTable table("Results of the study");
  for (const Column& column : columns) table.head(column.title, column.meaning);
  for (const Record& row : rows) {
    table.row(row.text("method") == "null_router" ? " class=\"null\"" : "");
    const auto failed = row.number("failed").value_or(0);
    table.add_text(label(row));
    table.add(row.shown("seeds") + (failed > 0 ? fmt::format(" +{}", failed) : ""));
    table.add_text(row.shown("learning_rate"));
    for (const char* mode : {"hard", "soft", "gated"}) {
      const Record of = row.object(mode);
      table.add(estimate(of.number("nll"), of.interval("nll_ci95")));
    }
    const Record routing = row.object("routing");
    for (const char* key : {"entropy_sampled_pct", "projected_cost_pct", "argmax_cost_pct"})
      table.add(cell(routing.number(key), 1));
    for (const char* key : {"kl", "mi_token_expert"}) table.add(cell(routing.number(key), 4));
    table.add(cell(row.object("deltas").number("permutation_delta_nll"), 4));
    for (const char* key : {"attention_flops_vs_full", "model_flops_vs_full"})
      table.add(percent(row.object("hard").number(key)));
    table.add(cell(row.number("train_s"), 1));
  }
  return table.finish() + "<div class=\"charts\">" + drawn(ranking_chart(rows)) + "</div>\n";
}

Chart Page::ranking_chart(const Records& rows) const {
  Records sorted;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(sorted),
               [](const Record& row) { return row.object("hard").number("nll").has_value(); });
  std::stable_sort(sorted.begin(), sorted.end(), [](const Record& a, const Record& b) {
    return *a.object("hard").number("nll") < *b.object("hard").number("nll");
  });
  Chart chart{"NLL by method",
              "Test text; the best first. Bars are 95% intervals over seeds.",
              {"NLL, nats per byte"},
              {"method"},
              {},
              true};
  for (const Record& row : sorted) chart.y.labels.push_back(label(row));
  for (const char* mode : {"hard", "soft", "gated"}) {
    ChartSeries series{mode, {}, false};
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      const Record of = sorted[i].object(mode);
      if (const auto nll = of.number("nll"))
        series.points.push_back({*nll, double(i), of.interval("nll_ci95")});
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

std::string Page::grid_html() const {
  HtmlTable table("Learning rates");
  table.head("method");
  table.head("learning rate: NLL");
  bool any = false;
  for (const Record& row : rows_) {
    std::string points;
    for (const Record& point : records(member(row.json(), "grid"), row.where() + ".grid")) {
      const bool best =
          point.has("learning_rate") && point.number("learning_rate") == row.number("learning_rate");
      const auto nll = point.number("development_nll");
      append(points, "{}{}{}: {}{}", points.empty() ? "" : " &middot; ", best ? "<b>" : "",
             escape_html(point.shown("learning_rate")), nll ? cell(nll, 4) : "failed", best ? "</b>" : "");
    }
    if (points.empty()) continue;
    any = true;
    table.row();
    table.add_text(label(row));
    table.add(points);
  }
  if (!any) return "";
  return "<h3>Learning rates</h3>\n<p>Development NLL, hard routing, seed 1. The test text is not read here. "
         "The chosen "
         "rate is bold.</p>\n<details><summary>All rates</summary>" +
         table.finish() + "</details>\n";
}

// Where the posterior collapses.

// What varies besides w_kl: "free, warmup", with the prior's strength where it is not the same everywhere.
std::string Page::variant(const Record& record) const {
  std::string name = record.shown("posterior") + ", " + record.shown("schedule");
  for (const char* key : {"beta0", "eps"}) {
    if (varied_.count(key) > 0 && record.has(key)) name += fmt::format(", {} {}", key, record.shown(key));
  }
  return record.flag("empirical_bayes") ? name + ", empirical Bayes" : name;
}

// The series that an arm belongs to, and its name within: of a study of the collapse what varies besides
// w_kl, so that a chart has a few lines instead of dozens.
std::pair<std::string, std::string> Page::family(const Record& record) const {
  const auto found = families_.find(arm(record));
  const bool known = found != families_.end() && record.text("method") != "null_router";
  return !known ? std::pair(label(record), std::string()) : found->second;
}

std::vector<double> distinct(const Records& all, const char* key) {
  std::set<double> values;
  for (const Record& record : all) {
    if (const auto value = record.number(key)) values.insert(*value);
  }
  return {values.begin(), values.end()};
}

std::string Page::boundary_table(const Records& boundary) const {
  const std::vector<double> weights = distinct(boundary, "w_kl");
  double largest = 1e-9;
  for (const Record& record : boundary)
    largest = std::max(largest, record.number("mi_token_expert").value_or(0));
  HtmlTable table("Boundary of the collapse");
  table.head("posterior, schedule");
  for (const double w_kl : weights) table.head(fmt::format("w_kl {:g}", w_kl));
  for (const auto& [name, records] :
       group(boundary, [this](const Record& record) { return variant(record); })) {
    table.row();
    table.add_text(name);
    for (const double w_kl : weights) {
      const auto found = std::find_if(records.begin(), records.end(),
                                      [w_kl](const Record& record) { return record.number("w_kl") == w_kl; });
      if (found == records.end()) {
        table.add("");
        continue;
      }
      const auto mi = found->number("mi_token_expert");
      table.add_heat(mi.value_or(0) / largest, cell(mi, 4) + (found->flag("collapsed") ? " &times;" : ""));
    }
  }
  return "<p>Mutual information of token and expert in nats; &times;: collapsed.</p>\n" + table.finish();
}

std::string Page::collapse_html() {
  if (boundary_.empty()) return "";
  std::string html = "<h3>Where the posterior collapses</h3>\n";
  html += by_corpus(boundary_, [this](const Records& records) {
    const std::vector<double> weights = distinct(records, "w_kl");
    std::string part = boundary_table(records) + "<div class=\"charts\">\n";
    const std::array<const char*, 3> charts[] = {
        {"KL against w_kl", "kl", "KL, nats per token"},
        {"MI against w_kl", "mi_token_expert", "MI, nats"},
        {"What permuting the routing costs", "permutation_delta_nll", "NLL change, nats"},
        {"Hard NLL against w_kl", "hard_nll", "NLL, nats per byte"}};
    for (const auto& [title, key, axis] : charts) {
      Chart chart{title, "By posterior and schedule of w_kl.", {"w_kl"}, {axis}, {}};
      for (const double w_kl : weights) chart.x.labels.push_back(fmt::format("{:g}", w_kl));
      for (const auto& [name, of_it] :
           group(records, [this](const Record& record) { return variant(record); })) {
        ChartSeries series{name, {}};
        for (const Record& record : of_it) {
          const auto w_kl = record.number("w_kl"), value = record.number(key);
          if (!w_kl || !value) continue;
          const auto at = std::find(weights.begin(), weights.end(), *w_kl) - weights.begin();
          series.points.push_back({double(at), *value});
        }
        std::sort(series.points.begin(), series.points.end(),
                  [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
        chart.series.push_back(std::move(series));
      }
      part += drawn(chart);
    }
    return part + "</div>\n<details><summary>All numbers of the boundary</summary>" +
           record_table(records, "Boundary") + "</details>\n";
  });
  return html;
}

// Curves over training, one line for each run: a chart for every number that the records have.
std::string Page::curves_html(const char* name, const char* title) {
  struct Curve {
    const char *title, *key, *axis;
  };
  constexpr Curve known[] = {{"NLL", "nll", "nats per byte"},
                             {"Held-out NLL", "valid_nll", "nats per byte"},
                             {"Accuracy", "accuracy", "share of the bytes"},
                             {"KL", "kl", "nats per token"},
                             {"MI", "mi_token_expert", "nats"},
                             {"Routing entropy", "entropy_mean_pct", "% of ln 3"},
                             {"Tokens on full, last layer", "full", "share"},
                             {"Active units", "active_units", "units"}};
  const Records curves = take("curves", name);
  if (curves.empty()) return "";
  std::string html = fmt::format("<h3>{}</h3>\n", title);
  return html + by_corpus(curves, [&](const Records& records) {
           std::string part = "<div class=\"charts\">\n";
           // A chart for every variant that has several weights; those with one stand together, by weight.
           std::map<std::string, std::set<std::string>> weights;
           for (const Record& record : records) {
             const auto [variant, w_kl] = family(record);
             weights[variant].insert(w_kl);
           }
           const auto names = [&](const Record& record) {  // of the chart, of the line
             const auto [variant, w_kl] = family(record);
             if (w_kl.empty()) return std::pair(w_kl, variant);
             return weights[variant].size() > 1 ? std::pair(": " + variant, w_kl)
                                                : std::pair(": " + w_kl, variant);
           };
           for (const Curve& curve : known) {
             const auto chart_of = [&](const Record& record) { return names(record).first; };
             for (const auto& [chart_name, runs] : group(records, chart_of)) {
               Chart chart{
                   curve.title + chart_name, "One line for each run.", {"training step"}, {curve.axis}, {}};
               for (const Record& record : runs) {
                 ChartSeries series{names(record).second, {}, true, "", "seed " + record.shown("seed")};
                 const auto steps = record.numbers("step"), values = record.numbers(curve.key);
                 for (std::size_t i = 0; i < std::min(steps.size(), values.size()); ++i) {
                   if (std::isfinite(values[i])) series.points.push_back({steps[i], values[i]});
                 }
                 if (!series.points.empty()) chart.series.push_back(std::move(series));
               }
               if (!chart.series.empty()) part += drawn(chart);
             }
           }
           return part + "</div>\n";
         });
}

// The points that no other one beats in both numbers, from left to right.
std::vector<ChartPoint> front_of(std::vector<ChartPoint> points) {
  std::sort(points.begin(), points.end(), [](const ChartPoint& a, const ChartPoint& b) {
    return std::pair(a.x, a.y) < std::pair(b.x, b.y);
  });
  std::vector<ChartPoint> front;
  for (const ChartPoint& point : points) {
    if (front.empty() || point.y < front.back().y) front.push_back({point.x, point.y, {}, point.label});
  }
  return front;
}

// Quality against what it costs. `what`: title, key, axis. Exhibits and null routers are shown, but are on no
// front.
Chart Page::pareto_chart(const Records& points, const std::array<const char*, 3>& what) const {
  const auto& [title, key, axis] = what;
  Chart chart{title,
              "Lower and further left is better; the dashed line joins what no other point beats in both.",
              {axis, true},
              {"NLL, nats per byte"},
              {}};
  std::vector<ChartPoint> ranked;
  for (const auto& [name, records] :
       group(points, [this](const Record& record) { return family(record).first; })) {
    ChartSeries series{name, {}, false};
    for (const Record& record : records) {
      const auto x = record.number(key), nll = record.number("nll");
      if (!x || !nll) continue;
      const std::string w_kl = family(record).second;
      const std::string point = (w_kl.empty() ? w_kl : w_kl + ", ") + record.shown("routing");
      series.points.push_back({*x, *nll, record.interval("nll_ci95"), point});
      if (exhibits_.count(arm(record)) == 0 && record.text("method") != "null_router")
        ranked.push_back({*x, *nll, {}, name + ", " + point});
    }
    chart.series.push_back(std::move(series));
  }
  chart.series.push_back({"front", front_of(std::move(ranked)), true, "bound"});
  return chart;
}

std::string Page::pareto_html() {
  Records points = take("tables", "points");
  const std::array<const char*, 3> per_byte[] = {
      {"NLL against attention FLOPs", "attention_flops_per_byte", "attention FLOPs per byte"},
      {"NLL against model FLOPs", "model_flops_per_byte", "model FLOPs per byte"},
      {"NLL against seconds", "seconds_per_byte", "seconds per byte, one thread"}};
  const std::array<const char*, 3> of_rows[] = {
      {"NLL against attention FLOPs", "attention_flops", "attention FLOPs of the evaluation"},
      {"NLL against model FLOPs", "model_flops", "model FLOPs of the evaluation"},
      {"NLL against seconds", "wall_s", "seconds of the evaluation"}};
  const bool whole = points.empty();
  // A study without points of its own: those of its rows. The records live as long as this page.
  if (whole) {
    for (const Record& row : rows_) {
      for (const char* mode : {"soft", "hard", "gated"}) {
        if (!row.has(mode)) continue;
        Json point = row.object(mode).json();
        for (const char* key : {"arm", "method", "label", "corpus", "seq_len"})
          point[key] = member(row.json(), key);
        point["routing"] = mode;
        made_.push_back(std::make_unique<Json>(std::move(point)));
        points.emplace_back(*made_.back(), row.where());
      }
    }
  }
  if (points.empty()) return "";
  std::string html = "<h3>Quality against compute</h3>\n" + by_corpus(points, [&](const Records& records) {
                       std::string part = "<div class=\"charts\">\n";
                       for (const auto& what : whole ? of_rows : per_byte)
                         part += drawn(pareto_chart(records, what));
                       return part + "</div>\n";
                     });
  if (!whole)
    html += "<details><summary>All points</summary>" + record_table(points, "Points") + "</details>\n";
  return html;
}

// Gates: which tokens may be routed hard.
std::string Page::eta_html() {
  const Records gates = take("curves", "gates"), coverage = take("curves", "risk_coverage"),
                reliability = take("curves", "reliability"), raw = take("curves", "raw_reliability");
  const auto curve = [this](const Record& record, const std::string& name, const char* x, const char* y) {
    ChartSeries series{name, {}, true, "", label(record) + ", seed " + record.shown("seed")};
    const auto xs = record.numbers(x), ys = record.numbers(y);
    for (std::size_t i = 0; i < std::min(xs.size(), ys.size()); ++i) series.points.push_back({xs[i], ys[i]});
    return series;
  };
  const auto by_gate = [&](const Records& records, Chart chart, const char* x, const char* y) {
    for (const Record& record : records) chart.series.push_back(curve(record, record.shown("gate"), x, y));
    return drawn(chart);
  };
  std::string html;
  if (!gates.empty()) {
    html += "<h3>Quality against the gate's threshold</h3>\n" + by_corpus(gates, [&](const Records& records) {
              std::string part = "<div class=\"charts\">\n";
              part += by_gate(records,
                              {"NLL against the share routed hard",
                               "From all soft (0) to all hard (1); one line for each run.",
                               {"share of tokens and layers routed hard"},
                               {"NLL, nats per byte"},
                               {}},
                              "certain", "nll");
              part += by_gate(records,
                              {"NLL against attention FLOPs",
                               "Of the same thresholds.",
                               {"attention FLOPs over full attention"},
                               {"NLL, nats per byte"},
                               {}},
                              "attention_flops_vs_full", "nll");
              for (const auto& [gate, of_it] : group(records, "gate"))
                part += by_gate(of_it,
                                {"NLL by threshold: " + gate,
                                 "All soft and all hard have no threshold.",
                                 {"eta"},
                                 {"NLL, nats per byte"},
                                 {}},
                                "eta", "nll");
              return part + "</div>\n";
            });
  }
  if (!coverage.empty() || !reliability.empty()) html += "<h3>Is certainty earned?</h3>\n";
  const auto by_layer = [&](const Records& records, const Chart& chart, const char* x, const char* y) {
    return by_corpus(records, [&](const Records& of_corpus) {
      std::string part = "<div class=\"charts\">\n";
      for (const auto& [layer, of_it] : group(of_corpus, "layer")) {
        Chart one = chart;
        one.title += layer.empty() ? "" : ", layer " + layer;
        part += by_gate(of_it, one, x, y);
      }
      return part + "</div>\n";
    });
  };
  if (!coverage.empty())
    html += by_layer(coverage,
                     {"Risk by coverage",
                      "Share of wrong choices among the most certain tokens.",
                      {"coverage"},
                      {"share of wrong choices"},
                      {}},
                     "coverage", "risk");
  const auto reliability_html = [&](const Records& records, const char* title, const char* note) {
    Chart chart{title, note, {"predicted"}, {"observed"}, {}};
    chart.series.push_back({"as predicted", {{0, 0}, {1, 1}}, true, "bound"});
    return records.empty() ? "" : by_layer(records, chart, "predicted", "observed");
  };
  html +=
      reliability_html(reliability, "Reliability",
                       "Predicted against observed share of right choices; on the dashed line they agree.");
  html += reliability_html(raw, "Reliability of the largest weight", "The weight itself as the prediction.");
  return html;
}

// Which expert reads what kind of byte.
std::string Page::need_html() {
  const Records confusion = take("tables", "confusion");
  if (confusion.empty()) return "";
  std::string html =
      "<h3>Need against expert</h3>\n<p>Share of the tokens with a need, in percent, by the expert that "
      "reads them; hard routing.</p>\n";
  return html + by_corpus(confusion, [this](const Records& records) {
           std::string part;
           for (const auto& [name, of_arm] :
                group(records, [this](const Record& record) { return label(record); })) {
             append(part, "<h4>{}</h4>\n<div class=\"charts\">\n", escape_html(name));
             for (const auto& [layer, needs] : group(of_arm, "layer")) {
               HtmlTable table("Layer " + layer);
               for (const std::string& title : {"layer " + layer, std::string("tokens"), std::string("full"),
                                                std::string("linear"), std::string("local")})
                 table.head(title);
               for (const Record& need : needs) {
                 table.row();
                 table.add_text(need.shown("need"));
                 table.add_text(need.shown("tokens"));
                 for (const double share : need.numbers("fraction_argmax"))
                   table.add_heat(share, cell(100 * share, 1));
               }
               part += table.finish();
             }
             part += "</div>\n";
           }
           return part;
         });
}

// What was learnt at which size, and when. The sizes are languages of their own, yet belong on one chart.
std::string Page::emergence_html() {
  const Records drops = take("tables", "drops");
  if (drops.empty()) return "";
  Chart chart{"Recall after training",
              "One point for each run: the share of recall bytes predicted right. More keys come with longer "
              "sequences.",
              {"keys"},
              {"share of the bytes"},
              {}};
  for (const auto& [method, runs] : group(drops, "method")) {
    ChartSeries series{method, {}, true};
    for (const Record& run : runs) {
      const auto keys = run.number("keys"), accuracy = run.number("last_accuracy");
      if (keys && accuracy) series.points.push_back({*keys, *accuracy, {}, label(run)});
    }
    std::stable_sort(series.points.begin(), series.points.end(),
                     [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
    if (!series.points.empty()) chart.series.push_back(std::move(series));
  }
  return "<h3>Emergence</h3>\n" + (chart.series.empty() ? "" : drawn(chart)) +
         by_corpus(drops, [this](const Records& records) { return record_table(records, "Drops"); });
}

// Records as they are: a column for every key, an interval beside its number.
std::string Page::record_table(const Records& all, const std::string& name) const {
  std::vector<std::string> keys;
  for (const Record& record : all) {
    for (const auto& [key, value] : record.json().items()) {
      const bool repeats = key == "arm" || key == "method" || key == "label" || key == "corpus" ||
                           key == "seq_len" || (key.size() > 5 && key.rfind("_ci95") == key.size() - 5);
      if (!repeats && std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  HtmlTable table(name);
  table.head("arm");
  for (std::string key : keys) {
    std::replace(key.begin(), key.end(), '_', ' ');
    table.head(key);
  }
  for (const Record& record : all) {
    table.row();
    table.add_text(label(record));
    for (const std::string& key : keys) {
      const Json& value = member(record.json(), key.c_str());
      const auto interval = record.interval((key + "_ci95").c_str());
      if (interval && value.is_number()) {
        table.add(estimate(value.get<double>(), interval));
      } else if (value.is_boolean()) {
        table.add(value.get<bool>() ? "yes" : "no");
      } else {
        table.add_text(record.shown(key.c_str()));
      }
    }
  }
  return table.finish();
}

std::string Page::other_tables() {
  std::string html;
  const Record tables = study_.object("tables");
  for (const auto& [name, list] : tables.json().items()) {
    if (taken_.count("tables." + name) > 0) continue;
    const Records all = records(list, tables.where() + "." + name);
    if (all.empty()) continue;
    append(html, "<h3>Table: {}</h3>\n", escape_html(name));
    html +=
        by_corpus(all, [&, title = name](const Records& records) { return record_table(records, title); });
  }
  return html;
}

}  // namespace

StudySection study_section(std::string_view content, const std::string& where) {
  const Json json = parse_object(content, where);
  Page page(json, where);
  return {page.html(), page.runs()};
}

}  // namespace dirigo::tools
