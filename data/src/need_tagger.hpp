// Need tags of a generated sequence whose facts are a key byte followed by its value.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "dirigo/data/source.hpp"

namespace dirigo {

class NeedTagger {
 public:
  // Tags `length` positions, all `text` until told otherwise.
  NeedTagger(std::int64_t length, std::int64_t window)
      : needs_(static_cast<std::size_t>(length), Need::text), window_(static_cast<std::size_t>(window)) {}

  // A key (a number below 256 that identifies it) stands at `position`; positions come in increasing order.
  void key(std::size_t position, std::size_t identity) {
    auto& last = last_[identity];
    if (position < needs_.size()) {
      needs_[position] = !last                        ? Need::first
                         : position - *last < window_ ? Need::recall_near
                                                      : Need::recall_far;
    }
    last = position;
  }

  std::vector<Need> take() { return std::move(needs_); }

 private:
  std::vector<Need> needs_;
  std::size_t window_;
  std::array<std::optional<std::size_t>, 256> last_{};
};

}  // namespace dirigo
