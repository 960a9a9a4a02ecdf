// Byte-level BPE with the vocabulary, merges and special tokens of a GGUF file. Pre-tokenizer: 'smollm' (digits one by one, then the split of GPT-2).
#pragma once

#include "gguf.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace generate {

class Tokenizer {
public:
  explicit Tokenizer(const GgufFile &file);

  // Special tokens written out in the text ("<|im_start|>") become their one id when `specials` is set, as they do in Hugging Face tokenizers.
  std::vector<int32_t> encode(std::string_view text, bool specials = true) const;

  // Bytes of the tokens. One token may hold a part of a UTF-8 character only. Special tokens are written out when `specials` is set, otherwise left out.
  std::string decode(const std::vector<int32_t> &tokens, bool specials = false) const;

  // The prompt format of SmolLM2-Instruct; special tokens inside `text` stay plain text. The first turn carries the model's own default system message;
  // the next ones begin with the end-of-turn token, which is never fed when an answer ends.
  std::vector<int32_t> first_turn(std::string_view text) const;
  std::vector<int32_t> next_turn(std::string_view text) const;

  int32_t end_of_turn() const { return end_of_turn_; }
  int32_t size() const { return static_cast<int32_t>(bytes_.size()); }

private:
  struct Merge {
    int32_t rank, token;
  };

  std::vector<int32_t> wrap(std::string_view before, std::string_view text) const;
  void encode_text(std::string_view text, std::vector<int32_t> &out) const;
  void encode_word(std::string_view word, std::vector<int32_t> &out) const;

  std::vector<std::string> bytes_;                          // [token]: what it stands for
  std::vector<bool> special_;                               // [token]
  std::vector<std::pair<std::string, int32_t>> special_texts_; // longest first
  std::unordered_map<uint64_t, Merge> merges_;              // left << 32 | right
  int32_t byte_token_[256];                                 // -1 where the vocabulary lacks the byte
  int32_t end_of_turn_ = -1;
};

} // namespace generate
