// The cached keys and values of one layer (and of one expert, with per-expert projections), in pages that
// forks share until one of them writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "dirigo/core/allocator.hpp"
#include "dirigo/core/attention_cache.hpp"

namespace dirigo::meta {

// A counted reference to a page of cache_page_size(width) values, zero when new.
class PageRef {
 public:
  PageRef() = default;
  PageRef(const std::shared_ptr<Allocator>& allocator, std::int64_t width);
  PageRef(const PageRef& other) noexcept : page_(other.page_) {
    if (page_ != nullptr) page_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  PageRef(PageRef&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef();

  float* values() const noexcept { return page_ != nullptr ? page_->values : nullptr; }
  // Whether another reference exists. Acquires what its last holder did before letting go, so that the page
  // may be written when this is false.
  bool shared() const noexcept {
    return page_ != nullptr && page_->owners.load(std::memory_order_acquire) > 1;
  }

  // What a page takes beside its values, with the system's own headers and alignment.
  static constexpr std::size_t header_bytes() noexcept { return sizeof(Page) + 2 * Allocator::alignment; }

 private:
  struct Page {
    std::atomic<std::int64_t> owners{1};
    float* values = nullptr;
    std::size_t bytes = 0;
    std::shared_ptr<Allocator> allocator;
  };
  Page* page_ = nullptr;
};

class KvCache {
 public:
  KvCache(std::shared_ptr<Allocator> allocator, std::int64_t width)
      : allocator_(std::move(allocator)), width_(width) {}
  // Makes room in the tables for so many positions, so that write() allocates pages alone.
  void reserve(std::int64_t positions);

  // Writes the key and the value (`width` values each) of a position: the next one, or one before it.
  void write(std::int64_t position, const float* key, const float* value);
  // Gives up the pages that lie before `position` altogether.
  void forget_before(std::int64_t position);
  // Gives up the pages from `length` on.
  void truncate(std::int64_t length);
  // Keys and values of positions [begin, end) as rows, `width` apart; rows of forgotten pages are zero.
  void unpack(std::int64_t begin, std::int64_t end, float* keys, float* values) const;

  const float* const* pages() const noexcept { return values_.data(); }
  std::int64_t first_kept() const noexcept { return first_page_ * cache_page; }

  std::size_t bytes() const noexcept;         // of the pages and the tables
  std::size_t shared_bytes() const noexcept;  // of the pages that another cache holds too
  // The same for so many pages of a given width, in tables for so many positions.
  static std::size_t bytes_of(std::int64_t pages, std::int64_t width, std::int64_t positions) noexcept;

 private:
  std::shared_ptr<Allocator> allocator_;
  std::int64_t width_;
  std::int64_t first_page_ = 0;  // the first that is kept
  std::vector<PageRef> pages_;
  std::vector<const float*> values_;  // where each page lies, for the kernels
};

}  // namespace dirigo::meta
