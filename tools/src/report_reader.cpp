// The reading view: numbers about every byte, packed for tools/report/reader.js, which draws the text.
//
// A number is 16 bits, the lower byte first; columns of them are base64:
//   nll      1/1000 nat, 65535 for none     chosen   8 bits: the expert, 255 for none
//   full, linear   weights, 1/65535; the rest of 1 is local's
//   u        1/100, signed                   mi       1/10000 nat
// `text` has one UTF-16 unit for each byte: the character at its first byte, U+E000 at its others. Characters
// that would combine or turn the text are dots (byte_text.hpp).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "byte_text.hpp"
#include "report.hpp"
#include "report_json.hpp"

namespace dirigo::tools {

namespace {

constexpr const char* joined = "\xEE\x80\x80";  // U+E000

class Column {
 public:
  void add(unsigned value) {
    bytes_ += static_cast<char>(value & 0xFFu);
    bytes_ += static_cast<char>(value >> 8 & 0xFFu);
  }
  void add_byte(unsigned value) { bytes_ += static_cast<char>(value); }
  std::string text() const { return base64(bytes_); }

 private:
  std::string bytes_;
};

// value * scale as a whole number within [low, high].
int scaled(double value, double scale, int low, int high) {
  const double number = std::isnan(value) ? high : value * scale;
  return static_cast<int>(std::lround(std::clamp(number, double(low), double(high))));
}

Json layer_json(const std::vector<const ReportByte*>& bytes, std::size_t l) {
  Column chosen, full, linear, u, mi;
  bool dirichlet = false;
  for (const ReportByte* byte : bytes) {
    const bool absent = byte->score.skipped || l >= byte->score.layers.size();
    const meta::ByteScore::Layer layer =
        absent ? meta::ByteScore::Layer{{0, 0, 0}, {}, {}, {}, {}} : byte->score.layers[l];
    chosen.add_byte(absent ? 255u : static_cast<unsigned>(layer.chosen));
    full.add(static_cast<unsigned>(scaled(layer.weights[0], 65535, 0, 65535)));
    linear.add(static_cast<unsigned>(scaled(layer.weights[1], 65535, 0, 65535)));
    dirichlet |= layer.uncertainty.has_value();
    u.add(static_cast<unsigned>(scaled(layer.uncertainty.value_or(0), 100, -32768, 32767)));
    mi.add(static_cast<unsigned>(scaled(layer.mi.value_or(0), 10000, 0, 65535)));
  }
  Json json{{"chosen", chosen.text()}, {"full", full.text()}, {"linear", linear.text()}};
  if (dirichlet) {
    json["u"] = u.text();
    json["mi"] = mi.text();
  }
  return json;
}

// Windows are decoded one by one: each is read on its own.
std::string shown_text(const ReportRun& run) {
  std::string text;
  for (const auto& window : run.windows) {
    std::vector<std::uint8_t> bytes;
    for (const ReportByte& byte : window) bytes.push_back(byte.score.byte);
    for (const std::string& glyph : byte_glyphs(bytes)) text += glyph.empty() ? joined : glyph;
  }
  return text;
}

Json packed(const ReportRun& run, const std::vector<const ReportByte*>& bytes, std::size_t layers) {
  Json json{{"text", shown_text(run)}, {"continuous", run.continuous}, {"starts", Json::array()}};
  std::size_t start = 0;
  for (const auto& window : run.windows) {
    json["starts"].push_back(start);
    start += window.size();
  }
  Column values, nll, need;
  std::vector<std::string> needs{""};
  for (const ReportByte* byte : bytes) {
    values.add_byte(byte->score.byte);
    nll.add(byte->score.nll ? static_cast<unsigned>(scaled(*byte->score.nll, 1000, 0, 65534)) : 65535u);
    const auto found = std::find(needs.begin(), needs.end(), byte->need);
    need.add_byte(static_cast<unsigned>(found - needs.begin()));
    if (found == needs.end()) needs.push_back(byte->need);
  }
  json["bytes"] = values.text();
  json["nll"] = nll.text();
  if (needs.size() > 1) {
    json["needs"] = needs;
    json["need"] = need.text();
  }
  json["layers"] = Json::array();
  for (std::size_t l = 0; l < layers; ++l) json["layers"].push_back(layer_json(bytes, l));
  return json;
}

std::string legend(bool needs) {
  std::string html =
      "<p class=\"legend\"><span><span class=\"sample full sure-6\">a</span> full (solid line)</span>"
      "<span><span class=\"sample linear sure-6\">a</span> linear (dotted line)</span>"
      "<span><span class=\"sample local sure-6\">a</span> local (no line)</span><span>stronger colour: surer "
      "choice</span>";
  if (needs) {
    html +=
        "<span><span class=\"need-recall_far\">a</span> the next byte needs recall_far</span>"
        "<span><span class=\"need-recall_near\">a</span> recall_near</span><span><span "
        "class=\"need-first\">a</span> first</span>";
  }
  return html + "<span>&middot; a byte that is not shown</span></p>\n";
}

}  // namespace

std::string reader_html(const ReportRun& run, std::size_t index) {
  std::vector<const ReportByte*> bytes;
  std::size_t layers = 0;
  bool needs = false;
  for (const auto& window : run.windows) {
    for (const ReportByte& byte : window) {
      bytes.push_back(&byte);
      layers = std::max(layers, byte.score.layers.size());
      needs |= !byte.need.empty();
    }
  }
  if (layers == 0) return "";
  std::string html = fmt::format(
      "<h3>Held-out text, coloured by expert</h3>\n<p class=\"quiet\">{} bytes in {} windows, each read "
      "without "
      "the others{}. A byte shows the attention that reads it in order to predict the next one. Hover, tap, "
      "or "
      "focus the text and use the arrow keys for weights, uncertainty U and mutual information MI.</p>\n",
      bytes.size(), run.windows.size(),
      run.continuous && run.windows.size() > 1 ? " (&#9474; marks where the next begins)" : "");
  html += legend(needs);
  html += "<div class=\"reader\"><fieldset><legend>Layer</legend>";
  for (std::size_t l = 0; l < layers; ++l) {
    html += fmt::format("<label><input type=\"radio\" name=\"layer-{}\" value=\"{}\"{}>{}</label>", index, l,
                        l + 1 == layers ? " checked" : "", l);
  }
  html += fmt::format(
      "</fieldset>\n<div class=\"page\"><div class=\"text\" tabindex=\"0\" role=\"group\" "
      "aria-label=\"Held-out text of "
      "{}; arrow keys move through it\"></div>\n<div class=\"detail\" role=\"status\"></div></div>\n",
      escape_html(run.name));
  const Json json = packed(run, bytes, layers);
  return html + json_script(json.dump(-1, ' ', false, Json::error_handler_t::replace)) + "</div>\n";
}

}  // namespace dirigo::tools
