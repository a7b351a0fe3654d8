#include "kv_cache.hpp"

#include <algorithm>

namespace dirigo::meta {

namespace {

std::int64_t pages_over(std::int64_t positions) {
  return (positions + cache_page - 1) / cache_page;
}

}  // namespace

PageRef::PageRef(const std::shared_ptr<Allocator>& allocator, std::int64_t width) {
  auto page = std::make_unique<Page>();
  page->bytes = std::size_t(cache_page_size(width)) * sizeof(float);
  page->allocator = allocator;
  page->values = static_cast<float*>(allocator->allocate(page->bytes));
  std::fill_n(page->values, cache_page_size(width), 0.0F);
  page_ = page.release();
}

PageRef::~PageRef() {
  if (page_ == nullptr || page_->owners.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  page_->allocator->release(page_->values, page_->bytes);
  delete page_;
}

void KvCache::reserve(std::int64_t positions) {
  pages_.reserve(std::size_t(pages_over(positions)));
  values_.reserve(std::size_t(pages_over(positions)));
}

void KvCache::write(std::int64_t position, const float* key, const float* value) {
  const auto index = std::size_t(position / cache_page);
  if (index >= pages_.size()) {
    pages_.emplace_back(allocator_, width_);
    values_.push_back(pages_.back().values());
  } else if (pages_[index].shared()) {  // copy on write
    PageRef own(allocator_, width_);
    std::copy_n(pages_[index].values(), cache_page_size(width_), own.values());
    pages_[index] = std::move(own);
    values_[index] = pages_[index].values();
  }
  float* const page = pages_[index].values();
  const std::int64_t slot = position % cache_page;
  std::copy_n(value, width_, page + slot * width_);
  float* const keys = page + cache_page * width_ + slot;
  for (std::int64_t c = 0; c < width_; ++c) keys[c * cache_page] = key[c];
}

void KvCache::forget_before(std::int64_t position) {
  for (; (first_page_ + 1) * cache_page <= position; ++first_page_) {
    pages_[std::size_t(first_page_)] = {};
    values_[std::size_t(first_page_)] = nullptr;
  }
}

void KvCache::truncate(std::int64_t length) {
  const auto pages = std::size_t(pages_over(length));
  if (pages >= pages_.size()) return;
  pages_.resize(pages);
  values_.resize(pages);
  first_page_ = std::min(first_page_, std::int64_t(pages));
}

void KvCache::unpack(std::int64_t begin, std::int64_t end, float* keys, float* values) const {
  for (std::int64_t position = begin; position < end; ++position, keys += width_, values += width_) {
    const float* const page = values_[std::size_t(position / cache_page)];
    if (page == nullptr) {
      std::fill_n(keys, width_, 0.0F);
      std::fill_n(values, width_, 0.0F);
      continue;
    }
    const std::int64_t slot = position % cache_page;
    std::copy_n(page + slot * width_, width_, values);
    const float* const column = page + cache_page * width_ + slot;
    for (std::int64_t c = 0; c < width_; ++c) keys[c] = column[c * cache_page];
  }
}

std::size_t KvCache::bytes() const noexcept {
  return bytes_of(std::int64_t(pages_.size()) - first_page_, width_,
                  std::int64_t(pages_.capacity()) * cache_page);
}

std::size_t KvCache::shared_bytes() const noexcept {
  const auto shared =
      std::count_if(pages_.begin(), pages_.end(), [](const PageRef& page) { return page.shared(); });
  return bytes_of(std::int64_t(shared), width_, 0);
}

std::size_t KvCache::bytes_of(std::int64_t pages, std::int64_t width, std::int64_t positions) noexcept {
  const std::size_t page = std::size_t(cache_page_size(width)) * sizeof(float) + PageRef::header_bytes();
  return std::size_t(pages) * page +
         std::size_t(pages_over(positions)) * (sizeof(PageRef) + sizeof(const float*));
}

}  // namespace dirigo::meta
