// The routing flags that several subcommands share.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::tools {

struct RoutingArguments {
  std::string routing = "soft", gate = "mi";
  std::optional<double> eta;
  std::optional<std::string> expert;

  void add_to(CLI::App& command) {
    command.add_option("--routing", routing, "soft, hard or gated")->capture_default_str();
    command.add_option("--gate", gate, "of gated routing: entropy, mi or max_mean")->capture_default_str();
    command.add_option("--eta", eta, "threshold of the gate (mi: 0.05, max_mean: 0.9, entropy: -5)");
    command.add_option("--expert", expert, "send every token to full, linear or local");
  }

  // Throws ValueError naming the nearest word.
  meta::ForwardOptions options() const {
    meta::ForwardOptions forward;
    forward.routing = meta::parse_routing_mode(routing);
    forward.gate = meta::parse_gate(gate);
    forward.eta = eta.value_or(meta::default_eta(forward.gate));
    if (expert) forward.forced_expert = meta::parse_expert(*expert);
    return forward;
  }

  // What differs from plain soft, hard or gated routing, as its flags; empty if nothing does.
  std::string differences() const {
    std::string flags;
    if (routing == "gated" && gate != "mi") flags += " --gate " + gate;
    if (routing == "gated" && eta) flags += " --eta " + CLI::detail::to_string(*eta);
    if (expert) flags += " --expert " + *expert;
    return flags.empty() ? flags : flags.substr(1);
  }
};

}  // namespace dirigo::tools
