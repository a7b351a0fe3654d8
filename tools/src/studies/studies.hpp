// The built-in studies: one file each, with its list of arms and what it computes beyond the common rows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "studies/sections.hpp"
#include "study.hpp"

namespace dirigo::tools {

struct StudyKind {
  std::string_view name;
  StudyList (*list)();
  // Of a study whose work is done; its arms need not be those of `list` (--arms).
  StudySections (*sections)(const Study& study, const SectionOptions& options);
  std::vector<ShownTable> (*shown)();  // those of its tables that the command prints
  const StudyProbe* probe = nullptr;   // what the sections need of every run
};

extern const StudyKind table3_study, collapse_study, pareto_study, eta_study, need_study, emergence_study;

std::vector<std::string> study_names();
const StudyKind* find_study(std::string_view name);  // null: none of that name
// Throws ValueError naming the studies that exist.
StudyList built_in_study(std::string_view name);

// --- what several lists are made of ---

Settings static_router(const std::string& expert);
// The same in a model whose positions are a bias by distance in the window, which serve `local` alone: the
// others get positions of their own.
Settings static_expert(const std::string& expert);
StudyArm static_arm(const std::string& expert);  // at the paper's setting
// The paper's ablation and honest baselines, at the paper's setting.
std::vector<StudyArm> paper_arms();
// `tiny` with its router, with each expert alone and with a deterministic router; `budget` goes first.
std::vector<StudyArm> tiny_arms(const Settings& budget);

}  // namespace dirigo::tools
