#include "tokenizer.h"

#include "unicode.h"

#include <algorithm>
#include <iterator>
#include <queue>
#include <stdexcept>

namespace generate {
namespace {

constexpr double kTokenTypeControl = 3, kTokenTypeUserDefined = 4;
constexpr uint32_t kInvalid = 0xffffffff; // stands for a byte that is not UTF-8: neither letter, number nor space

struct CodePoint {
  uint32_t value;
  uint32_t begin; // offset in bytes
};

template <size_t N> bool contains(const CodePointRange (&table)[N], uint32_t point) {
  const auto *after = std::upper_bound(std::begin(table), std::end(table), point, [](uint32_t p, const CodePointRange &range) { return p < range.first; });
  return after != std::begin(table) && point <= after[-1].last;
}

bool is_letter(uint32_t point) { return contains(kLetters, point); }
bool is_number(uint32_t point) { return contains(kNumbers, point); }

bool is_space(uint32_t point) { // property White_Space
  return (point >= 9 && point <= 13) || point == 0x20 || point == 0x85 || point == 0xa0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200a) || point == 0x2028 || point == 0x2029 ||
         point == 0x202f || point == 0x205f || point == 0x3000;
}

bool is_other(uint32_t point) { return !is_letter(point) && !is_number(point) && !is_space(point); }

std::vector<CodePoint> code_points(std::string_view text) {
  std::vector<CodePoint> points;
  points.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
    uint32_t value = length == 1 ? lead : length == 2 ? lead & 31u : length == 3 ? lead & 15u : lead & 7u;
    bool valid = length != 0 && i + length <= text.size();
    for (size_t j = 1; valid && j < length; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      valid = (next & 0xc0) == 0x80;
      value = value << 6 | (next & 63u);
    }
    points.push_back({valid ? value : kInvalid, static_cast<uint32_t>(i)});
    i += valid ? length : 1;
  }
  return points;
}

// Length of the contraction at `at` ('s 't 'm 'd 're 've 'll), 0 if there is none.
size_t contraction(const std::vector<CodePoint> &points, size_t at, size_t end) {
  if (points[at].value != '\'' || at + 1 >= end) return 0;
  const uint32_t a = points[at + 1].value, b = at + 2 < end ? points[at + 2].value : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// End of the word of GPT-2's split that starts at `at`; the points lie in [at, end) and hold no number.
//   's|'t|'re|'ve|'m|'ll|'d| ?letters| ?others|spaces not followed by a non-space|spaces
size_t word_end(const std::vector<CodePoint> &points, size_t at, size_t end) {
  if (const size_t length = contraction(points, at, end)) return at + length;
  const size_t first = points[at].value == ' ' && at + 1 < end ? at + 1 : at;
  for (const auto &kind : {is_letter, is_other}) {
    size_t stop = first;
    while (stop < end && kind(points[stop].value)) ++stop;
    if (stop > first) return stop;
  }
  size_t stop = at;
  while (stop < end && is_space(points[stop].value)) ++stop;
  // A run of spaces leaves its last one to the word that follows.
  return stop < end && stop - at > 1 ? stop - 1 : stop;
}

// The alphabet of byte-level BPE: printable bytes stand for themselves, the others for code points from 256 on, in ascending order.
std::unordered_map<uint32_t, unsigned char> byte_alphabet() {
  std::unordered_map<uint32_t, unsigned char> bytes;
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    bytes[printable ? byte : next++] = static_cast<unsigned char>(byte);
  }
  return bytes;
}

uint64_t pair_key(int32_t left, int32_t right) { return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right); }

} // namespace

Tokenizer::Tokenizer(const GgufFile &file) {
  if (file.text("tokenizer.ggml.model") != "gpt2" || file.text("tokenizer.ggml.pre") != "smollm")
    throw std::runtime_error("the tokenizer of the model is '" + file.text("tokenizer.ggml.model") + "' with pre-tokenizer '" + file.text("tokenizer.ggml.pre") +
                             "'; byte-level BPE ('gpt2') with 'smollm' expected");
  const std::vector<std::string> &texts = file.texts("tokenizer.ggml.tokens");
  const std::vector<double> &types = file.numbers("tokenizer.ggml.token_type");
  if (types.size() != texts.size()) throw std::runtime_error("tokenizer.ggml.token_type has " + std::to_string(types.size()) + " entries for " + std::to_string(texts.size()) + " tokens");

  const auto alphabet = byte_alphabet();
  std::unordered_map<std::string, int32_t> ids;
  std::fill(std::begin(byte_token_), std::end(byte_token_), -1);
  for (size_t token = 0; token < texts.size(); ++token) {
    const auto id = static_cast<int32_t>(token);
    const bool special = types[token] == kTokenTypeControl || types[token] == kTokenTypeUserDefined;
    std::string bytes;
    if (special) {
      bytes = texts[token];
      if (!bytes.empty()) special_texts_.emplace_back(bytes, id);
    } else {
      for (const CodePoint &point : code_points(texts[token])) {
        const auto found = alphabet.find(point.value);
        if (found == alphabet.end()) throw std::runtime_error("token " + std::to_string(token) + " of the vocabulary is not in the byte alphabet");
        bytes += static_cast<char>(found->second);
      }
      if (bytes.size() == 1) byte_token_[static_cast<unsigned char>(bytes[0])] = id;
      ids.emplace(texts[token], id);
    }
    bytes_.push_back(std::move(bytes));
    special_.push_back(special);
  }
  std::stable_sort(special_texts_.begin(), special_texts_.end(), [](const auto &a, const auto &b) { return a.first.size() > b.first.size(); });

  const std::vector<std::string> &merges = file.texts("tokenizer.ggml.merges");
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const size_t space = merges[rank].find(' ');
    if (space == std::string::npos) throw std::runtime_error("merge " + std::to_string(rank) + " of the tokenizer has no space");
    const std::string left = merges[rank].substr(0, space), right = merges[rank].substr(space + 1);
    const auto l = ids.find(left), r = ids.find(right), both = ids.find(left + right);
    if (l == ids.end() || r == ids.end() || both == ids.end()) throw std::runtime_error("merge " + std::to_string(rank) + " of the tokenizer names an unknown token");
    merges_.emplace(pair_key(l->second, r->second), Merge{static_cast<int32_t>(rank), both->second});
  }
  const int64_t end = file.integer("tokenizer.ggml.eos_token_id");
  if (end < 0 || end >= static_cast<int64_t>(texts.size())) throw std::runtime_error("tokenizer.ggml.eos_token_id is " + std::to_string(end));
  end_of_turn_ = static_cast<int32_t>(end);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool specials) const {
  std::vector<int32_t> out;
  size_t plain = 0; // start of the text that is not yet encoded
  for (size_t at = 0; specials && at < text.size(); ++at) {
    for (const auto &[special, id] : special_texts_) {
      if (text.compare(at, special.size(), special) != 0) continue;
      encode_text(text.substr(plain, at - plain), out);
      out.push_back(id);
      plain = at + special.size();
      at = plain - 1;
      break;
    }
  }
  encode_text(text.substr(plain), out);
  return out;
}

void Tokenizer::encode_text(std::string_view text, std::vector<int32_t> &out) const {
  const std::vector<CodePoint> points = code_points(text);
  const auto word = [&](size_t begin, size_t end) {
    const size_t from = points[begin].begin, to = end < points.size() ? points[end].begin : text.size();
    encode_word(text.substr(from, to - from), out);
  };
  for (size_t at = 0; at < points.size();) {
    if (is_number(points[at].value)) {
      word(at, at + 1);
      ++at;
      continue;
    }
    // The digits are cut out first, so the end of such a piece is an end of text for the split.
    size_t end = at;
    while (end < points.size() && !is_number(points[end].value)) ++end;
    while (at < end) {
      const size_t stop = word_end(points, at, end);
      word(at, stop);
      at = stop;
    }
  }
}

void Tokenizer::encode_word(std::string_view word, std::vector<int32_t> &out) const {
  struct Symbol {
    int32_t token, previous, next;
  };
  std::vector<Symbol> symbols;
  for (const char c : word) {
    const int32_t token = byte_token_[static_cast<unsigned char>(c)];
    if (token < 0) continue; // the vocabulary has no token for this byte: dropped, as Hugging Face does
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({token, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  struct Candidate {
    int32_t rank, left, left_token, right_token;
    bool operator<(const Candidate &other) const { return rank != other.rank ? rank > other.rank : left > other.left; } // best first in a max-heap
  };
  std::priority_queue<Candidate> queue;
  const auto propose = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t a = symbols[left].token, b = symbols[symbols[left].next].token;
    if (const auto found = merges_.find(pair_key(a, b)); found != merges_.end()) queue.push({found->second.rank, left, a, b});
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols.size()); ++i) propose(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol &left = symbols[best.left];
    // An entry is stale when one of its two symbols has been merged since.
    if (left.token != best.left_token || left.next < 0 || symbols[left.next].token != best.right_token) continue;
    Symbol &right = symbols[left.next];
    left.token = merges_.at(pair_key(best.left_token, best.right_token)).token;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = best.left;
    right.token = -1;
    propose(left.previous);
    propose(best.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].token);
}

std::string Tokenizer::decode(const std::vector<int32_t> &tokens, bool specials) const {
  std::string text;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= size()) throw std::runtime_error("token " + std::to_string(token) + " is outside the vocabulary");
    if (specials || !special_[static_cast<size_t>(token)]) text += bytes_[static_cast<size_t>(token)];
  }
  return text;
}

std::vector<int32_t> Tokenizer::first_turn(std::string_view text) const {
  return wrap("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n", text);
}

std::vector<int32_t> Tokenizer::next_turn(std::string_view text) const { return wrap("<|im_end|>\n<|im_start|>user\n", text); }

std::vector<int32_t> Tokenizer::wrap(std::string_view before, std::string_view text) const {
  std::vector<int32_t> tokens = encode(before);
  const std::vector<int32_t> body = encode(text, false), after = encode("<|im_end|>\n<|im_start|>assistant\n");
  tokens.insert(tokens.end(), body.begin(), body.end());
  tokens.insert(tokens.end(), after.begin(), after.end());
  return tokens;
}

} // namespace generate
