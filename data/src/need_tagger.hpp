// Need tags of a generated sequence whose facts are a key byte followed by its value.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "dirigo/data/source.hpp"
#include "dirigo/data/synthetic.hpp"

namespace dirigo {

class NeedTagger {
 public:
  // Tags `length` positions, all `text` until told otherwise.
  NeedTagger(std::int64_t length, std::int64_t window)
      : needs_(static_cast<std::size_t>(length), Need::text),
        gaps_(needs_.size()),
        window_(static_cast<std::size_t>(window)) {}

  static std::vector<Need> tags() { return {Need::text, Need::first, Need::recall_near, Need::recall_far}; }

  // A key (a number below 256 that identifies it) stands at `position`; positions come in increasing order.
  void key(std::size_t position, std::size_t identity) {
    auto& last = last_[identity];
    if (position < needs_.size()) {
      const std::size_t gap = last ? position - *last : 0;
      gaps_[position] = static_cast<std::int32_t>(gap);
      needs_[position] = !last ? Need::first : gap < window_ ? Need::recall_near : Need::recall_far;
    }
    last = position;
  }

  void move_to(Sequence& sequence) {
    sequence.needs = std::move(needs_);
    sequence.gaps = std::move(gaps_);
  }

 private:
  std::vector<Need> needs_;
  std::vector<std::int32_t> gaps_;
  std::size_t window_;
  std::array<std::optional<std::size_t>, 256> last_{};
};

}  // namespace dirigo
