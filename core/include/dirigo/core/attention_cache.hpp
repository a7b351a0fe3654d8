// The layout of cached keys and values, and what the kernels that read it are given: attention of one query,
// for generating text token by token.
//
// Keys and values lie in pages of cache_page positions; page i holds positions [i * cache_page, (i + 1) *
// cache_page). A page of heads * d = D columns is 2 * cache_page * D values: first the values, a row of D per
// position, then the keys transposed, D rows of cache_page (row h * d + c is component c of head h). So a
// query's scores and its weighted sum both read memory in order.
#pragma once

#include <cstdint>

namespace dirigo {

inline constexpr std::int64_t cache_page = 32;

inline constexpr std::int64_t cache_page_size(std::int64_t width) noexcept {  // in values
  return 2 * cache_page * width;
}

// One query at `position` p, for heads [first_head, first_head + heads) of `width` / head_dim. Its bits are
// those of AttentionHead's query at p (softmax) and of LinearHead's (linear), whatever heads are computed.
template <class T>
struct CachedQuery {
  std::int64_t width = 0, head_dim = 0, first_head = 0, heads = 0;
  std::int64_t position = 0;
  const T* const* pages = nullptr;  // pages[i], i <= p / cache_page; those that p does not see may be null
  const T* q = nullptr;             // D values, all heads
  T* out = nullptr;                 // D values, of which those of the heads are written
  T* scratch = nullptr;             // cached_attention_scratch(width, head_dim, chunk) values
  // Softmax: s_j = scale q . k_j [+ bias[h][p - j]] over j in [max(0, p - window + 1), p].
  T scale = 1;
  std::int64_t window = 0;
  const T* bias = nullptr;  // by distance, all heads, `window` values each; or null
  // Linear: the state (S, z) before p's chunk, which starts at a multiple of `chunk`; the keys from there on
  // are read from the pages. As LinearState has them.
  std::int64_t chunk = 0;
  const T *sums = nullptr, *totals = nullptr;
};

// The state of linear attention: per head S = sum phi(k_j) v_j^T, d rows `padded_head(d)` apart, and
// z = sum phi(k_j), padded_head(d) values.
inline constexpr std::int64_t padded_head(std::int64_t head_dim) noexcept {
  return (head_dim + 31) / 32 * 32;
}

// Adds the keys and values of positions [begin, end) to the state of all heads.
template <class T>
struct AbsorbedKeys {
  std::int64_t width = 0, head_dim = 0, begin = 0, end = 0;
  const T* const* pages = nullptr;
  T *sums = nullptr, *totals = nullptr;
  T* scratch = nullptr;  // as CachedQuery's
};

// Scratch of all of these, in values; valid for every instruction set. chunk: at most the context's length.
std::int64_t cached_attention_scratch(std::int64_t width, std::int64_t head_dim, std::int64_t chunk) noexcept;

}  // namespace dirigo
