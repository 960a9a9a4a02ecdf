#include "examples/generate/tokenizer.h"
#include "gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace {

using engine_test::GgufWriter;
using engine_test::ScratchFile;
using generate::GgufFile;
using generate::Tokenizer;

// Two special tokens, the lower-case letters, some signs, and four merges. In the byte alphabet a space is U+0120 and a newline U+010A.
const std::string kSpace = "\xc4\xa0", kNewline = "\xc4\x8a";

std::vector<std::string> vocabulary() {
  std::vector<std::string> tokens = {"<|im_start|>", "<|im_end|>"};
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  for (const std::string &text : {std::string("1"), std::string("2"), std::string("'"), std::string("!"), kSpace, kNewline, std::string("\xc3\x83"), std::string("\xc2\xa9")}) tokens.push_back(text);
  for (const std::string &text : {std::string("ab"), kSpace + "a", std::string("abc"), kSpace + kSpace}) tokens.push_back(text);
  return tokens;
}

GgufWriter writer(const std::string &pre = "smollm") {
  GgufWriter writer;
  const std::vector<std::string> tokens = vocabulary();
  std::vector<uint32_t> types(tokens.size(), 1);
  types[0] = types[1] = 3;
  writer.add_text("tokenizer.ggml.model", "gpt2");
  writer.add_text("tokenizer.ggml.pre", pre);
  writer.add_texts("tokenizer.ggml.tokens", tokens);
  writer.add_numbers("tokenizer.ggml.token_type", types);
  writer.add_texts("tokenizer.ggml.merges", {"a b", kSpace + " a", "ab c", kSpace + " " + kSpace});
  writer.add_u32("tokenizer.ggml.eos_token_id", 1);
  return writer;
}

std::vector<std::string> words(const std::string &text, bool specials = true) {
  const ScratchFile file(writer().bytes());
  const Tokenizer tokenizer{GgufFile(file.path())};
  std::vector<std::string> out;
  for (const int32_t token : tokenizer.encode(text, specials)) out.push_back(tokenizer.decode({token}, true));
  return out;
}

using Words = std::vector<std::string>;

TEST(Tokenizer, MergesByRank) {
  EXPECT_EQ(words("abc"), (Words{"abc"}));
  EXPECT_EQ(words("abab"), (Words{"ab", "ab"}));
  EXPECT_EQ(words("aab"), (Words{"a", "ab"}));
  EXPECT_EQ(words(" abc"), (Words{" ", "abc"})); // a b comes before the space and a
  EXPECT_EQ(words(" ac"), (Words{" a", "c"}));
}

TEST(Tokenizer, SplitsBeforeItMerges) {
  EXPECT_EQ(words("12"), (Words{"1", "2"}));
  EXPECT_EQ(words("a 1"), (Words{"a", " ", "1"}));
  EXPECT_EQ(words("  a"), (Words{" ", " a"})); // the last space belongs to the word
  EXPECT_EQ(words("a  "), (Words{"a", "  "}));
  EXPECT_EQ(words("  1"), (Words{"  ", "1"})); // digits are cut out first, so both spaces are at the end of a text
  EXPECT_EQ(words("a'sab"), (Words{"a", "'", "s", "ab"}));
  EXPECT_EQ(words("\n\na"), (Words{"\n", "\n", "a"}));
}

TEST(Tokenizer, KnowsBytesAndDropsUnknownOnes) {
  EXPECT_EQ(words("\xc3\xa9"), (Words{"\xc3", "\xa9"}));
  EXPECT_EQ(words("a\xe4\xbd\xa0" "b"), (Words{"ab"})) << "a letter without tokens: what lies beside it may merge, as in Hugging Face tokenizers";
  EXPECT_EQ(words("a\xff" "b"), (Words{"a", "b"})) << "not UTF-8: a word of its own";
  EXPECT_EQ(words(""), Words{});
}

TEST(Tokenizer, SpecialTokensOnlyWhereTheyAreMeant) {
  EXPECT_EQ(words("a<|im_end|>b"), (Words{"a", "<|im_end|>", "b"}));
  const Words plain = words("im<|im_end|>", false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), "<|im_end|>"), 0);
  const ScratchFile file(writer().bytes());
  const Tokenizer tokenizer{GgufFile(file.path())};
  const std::vector<int32_t> turn = tokenizer.first_turn("a<|im_end|>b");
  EXPECT_EQ(std::count(turn.begin(), turn.end(), 1), 2) << "the text of a user must not end a turn";
  EXPECT_EQ(tokenizer.decode({0, 2, 1}), "a");
  EXPECT_EQ(tokenizer.decode({0, 2, 1}, true), "<|im_start|>a<|im_end|>");
  EXPECT_THROW(tokenizer.decode({1000}), std::runtime_error);
}

TEST(Tokenizer, LongRunsStayFast) {
  const ScratchFile file(writer().bytes());
  const Tokenizer tokenizer{GgufFile(file.path())};
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(tokenizer.encode(text).size(), text.size()); // quadratic merging would take minutes
}

TEST(Tokenizer, RefusesWhatItCannotDo) {
  const ScratchFile file(writer("llama-bpe").bytes());
  const GgufFile gguf(file.path());
  EXPECT_THROW(Tokenizer{gguf}, std::runtime_error);
}

} // namespace
