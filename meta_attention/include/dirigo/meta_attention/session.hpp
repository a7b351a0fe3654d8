// InferenceSession: a text that grows token by token, with everything cached that a later token may need.
//
//   const InferenceModel ready(context, model);
//   InferenceSession session(ready, {});
//   SessionOutput out = session.prefill(prompt);
//   for (...) session.step(choose(out.logits), out);
//
// Decode equals prefill, bit by bit: logits and routing of a token are those of LanguageModel run on the text
// up to it, however that text was split into prefill and steps, and whichever sessions ran beside it.
//
// What a layer keeps of a text of length t, with D = d_model (f32 values):
//   full    keys and values of all t positions, 2 D each;
//   local   keys and values of the last w;
//   linear  the state (S, z) before the open chunk, D (d + 1) with d = D / heads rounded up to 32 in each
//   head,
//           and the keys and values of the open chunk.
// With shared projections the three read one cache of keys and values, which is as long as the hungriest
// needs; with rotary positions, which turn the keys of full and local, linear keeps its open chunk's keys as
// they are, in a second one. With per-expert projections each expert has its own, and the keys and values of
// every expert are computed for every token, since a later token may choose any. Queries, attention and
// output projections are computed for the experts that the token's weights choose alone. A session whose
// options force an expert, or whose model has a static router, keeps what that one expert needs. Caches
// consist of pages of 32 positions.
//
// Threads. An InferenceModel may serve many sessions on many threads. A session serves one call at a time: a
// second one, from whatever thread, throws StateError and changes nothing. The Context must outlive both.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dirigo/meta_attention/language_model.hpp"

namespace dirigo::meta {

// The weights of a LanguageModel as they are now, copied and laid out for the product of one row: training
// the model later changes nothing here. Throws ValueError for an f64 model. Sessions hold it weakly: it must
// live as long as they are used.
class InferenceModel {
 public:
  InferenceModel(const Context& context, LanguageModel& model);
  ~InferenceModel();
  InferenceModel(InferenceModel&&) noexcept;
  InferenceModel& operator=(InferenceModel&&) noexcept;

  const Config& config() const noexcept;
  std::int64_t vocabulary() const noexcept;
  std::size_t memory_bytes() const noexcept;  // of the copied weights

 private:
  friend class InferenceSession;
  std::shared_ptr<const class PackedModel> packed_;
};

// What happens when a step would make a text longer than the maximum. `slide`: the last slide_keep tokens
// become the whole text, at positions from 0 on, computed anew; then the step runs. The session is then, bit
// by bit, a fresh one that was given this text. (Cached values cannot simply be kept, whatever the positions:
// above the first layer they were computed from the tokens that are dropped.)
enum class WhenFull { error, slide };

struct SessionOptions {
  // routing, gate, eta and forced_expert. `training` and `replaced_means` are refused with ValueError.
  ForwardOptions forward;
  // In [1, longest_text(config)], which with rotary and window_bias positions is far beyond model.max_len;
  // 0: model.max_len. The session reserves tables and token ids for all of it (max_memory_bytes()).
  std::int64_t max_length = 0;
  WhenFull when_full = WhenFull::error;
  std::int64_t slide_keep = 0;  // in [0, max_length); 0: max_length / 2
};

// Routing of n tokens in one layer; K = expert_count values a token, in the order of ExpertKind.
struct SessionRouting {
  std::vector<float> mean;           // m (n, K)
  std::vector<float> concentration;  // bhat (n, K); empty without a Dirichlet
  std::vector<float> weights;        // (n, K): what ran; an expert of weight 0 did not
  std::vector<ExpertKind> chosen;    // argmax m, n
};

struct SessionOutput {
  std::vector<float> logits;           // V of the last token, or (n, V) of all
  std::vector<SessionRouting> layers;  // of the n tokens of the call
};

// An expert for each token and layer, row by row: n * layers entries, token t's layer l at t * layers + l.
// Empty: the session's options decide. Otherwise that expert alone runs. Throws ValueError for another number
// of entries, or for an expert whose caches the session does not keep (see above).
using RoutingOverride = std::span<const ExpertKind>;

struct PrefillOptions {
  bool all_logits = false;  // of every token, not of the last alone
  RoutingOverride routing;
};

class InferenceSession {
 public:
  // An empty text. Throws ValueError for options out of range, or for a gate that the router does not
  // support.
  InferenceSession(const InferenceModel& model, const SessionOptions& options);
  ~InferenceSession();
  InferenceSession(InferenceSession&&) noexcept;  // what is moved from may be destroyed or assigned to, alone
  InferenceSession& operator=(InferenceSession&&) noexcept;

  // Appends tokens, at least one. All errors are thrown before anything changes: ValueError for no tokens, an
  // id outside [0, vocabulary), a text longer than the maximum (whatever when_full says) or an override that
  // does not fit; StateError when the InferenceModel is gone or the session is in use. If memory runs out
  // (std::bad_alloc) the text is empty afterwards.
  SessionOutput prefill(std::span<const std::int32_t> tokens, const PrefillOptions& options = {});

  // Appends one token. `output` is overwritten, and its memory used again. The session allocates a page now
  // and then; what else a step needs, the Context keeps. Errors as of prefill, and ValueError when the text
  // is full and when_full is `error`.
  void step(std::int32_t token, SessionOutput& output, RoutingOverride routing = {});

  // One step of each of several sessions of one model, whose dense layers run as one product each. The same
  // bits as stepping each alone. tokens and outputs: one per session; sessions: different ones. An error of
  // any of them is thrown before any changes; if memory runs out, all their texts are empty afterwards.
  static void step(std::span<InferenceSession* const> sessions, std::span<const std::int32_t> tokens,
                   std::span<SessionOutput> outputs);

  // A session with the same text and options. Pages are shared until one of the two writes to them.
  InferenceSession fork() const;

  // Cuts the text to its first `length` tokens, in [0, length()], as if the others had never been appended.
  // Costs next to nothing where the caches still reach back: always for `full`; to the start of the open
  // chunk for `linear` (further back its state is summed up again from cached keys, if full shares them,
  // which it does not with rotary positions); while w tokens before the cut are kept for `local`. Otherwise
  // the text is computed again.
  void rewind(std::int64_t length);

  // Of the text as the last call left it: not while another call runs.
  std::int64_t length() const noexcept;
  std::int64_t max_length() const noexcept;
  std::span<const std::int32_t> tokens() const noexcept;  // the text; valid until the next change

  // Bytes that the session holds now, pages that it shares with forks included; of these, the pages that are
  // shared; and the most that it ever holds. Memory that a call needs while it runs is not counted.
  std::size_t memory_bytes() const;
  std::size_t shared_memory_bytes() const;
  std::size_t max_memory_bytes() const noexcept;

 private:
  struct Impl;
  explicit InferenceSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dirigo::meta
