// A study.json as a part of the report: its rows, and the tables and charts of what the study adds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dirigo::tools {

struct StudySection {
  std::string html;
  std::vector<std::string> runs;  // whose sections follow: the first of every row
};

// Whatever is absent is left out: a study.json of an earlier version has less in it. Records that the report
// knows nothing about become tables. Rows of different corpora never share a table or a chart. Throws IoError
// naming `where` and the key for content that is no study.json.
StudySection study_section(std::string_view json, const std::string& where);

}  // namespace dirigo::tools
