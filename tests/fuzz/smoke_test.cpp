// Twenty thousand damaged files per format, made from small valid ones with a fixed seed: what a fuzzer does first, without a fuzzer. Worth
// most under the address and undefined behaviour sanitizers.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "bytes.h"
#include "seeds.h"
#include "targets.h"

namespace {

constexpr int kRounds = 20000;

using Target = bool (*)(std::span<const std::byte>);
using Seed = std::string (*)(int);

// A few changes of the kinds that break parsers: bits, bytes, numbers at their limits, cut and repeated parts, text of the format in wrong
// places.
std::string damage(std::string file, std::mt19937 &random) {
  static const std::vector<std::string> words = {"9223372036854775808",
                                                 "18446744073709551615",
                                                 "-1",
                                                 "0",
                                                 "[",
                                                 "]",
                                                 "{",
                                                 "}",
                                                 "\"",
                                                 "'",
                                                 "(",
                                                 ",",
                                                 ":",
                                                 "null",
                                                 "1e999",
                                                 "\"shape\"",
                                                 "'shape'",
                                                 "\"data_offsets\":[0,0]",
                                                 "__metadata__",
                                                 "\\u0000",
                                                 "\xff",
                                                 "True",
                                                 "4611686018427387904",
                                                 "4294967296"};
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % std::max<size_t>(limit, 1)); };
  // Most of the changes go to the header, which is where the parsing is.
  const auto place = [&] { return below(4) ? below(std::min<size_t>(file.size(), 2048)) : below(file.size()); };
  const int changes = 1 + static_cast<int>(below(4));
  for (int change = 0; change < changes; ++change) {
    if (file.empty()) break;
    const size_t at = place();
    switch (below(8)) {
      case 0:
        file[at] = static_cast<char>(file[at] ^ 1 << below(8));
        break;
      case 1:
        file[at] = static_cast<char>(random());
        break;
      case 2:
        file.resize(at);
        break;
      case 3:
        file.insert(at, words[below(words.size())]);
        break;
      case 4:
        file.erase(at, 1 + below(16));
        break;
      case 5:
        file.insert(at, file.substr(below(file.size()), 1 + below(64)));
        break;
      case 6:
        file.append(1 + below(64), static_cast<char>(random()));
        break;
      default: {
        // A digit becomes another: sizes and offsets that are nearly right.
        const size_t digit = file.find_first_of("0123456789", at);
        if (digit != std::string::npos) file[digit] = static_cast<char>('0' + below(10));
      }
    }
  }
  return file;
}

void smoke(Target target, Seed seed) {
  std::vector<std::string> seeds;
  for (int variant = 0; variant < think::fuzz::kVariants; ++variant) {
    seeds.push_back(seed(variant));
    ASSERT_TRUE(target(think::cli::bytes_of(seeds.back()))) << "the seed itself must be accepted";
  }
  std::mt19937 random(20240915);
  int accepted = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string file = damage(seeds[static_cast<size_t>(round) % seeds.size()], random);
    // A copy of its own size, so that a sanitizer sees one byte too far.
    const std::vector<std::byte> exact(reinterpret_cast<const std::byte *>(file.data()),
                                       reinterpret_cast<const std::byte *>(file.data()) + file.size());
    accepted += target(exact);
  }
  // Both happen, or the test would say nothing: some changes only touch numbers, most break the file.
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kRounds / 2);
}

TEST(FuzzSmoke, Npy) { smoke(think::fuzz::npy, think::fuzz::npy_seed); }
TEST(FuzzSmoke, Safetensors) { smoke(think::fuzz::safetensors, think::fuzz::safetensors_seed); }
TEST(FuzzSmoke, Layer) { smoke(think::fuzz::layer, think::fuzz::layer_seed); }
TEST(FuzzSmoke, Sequence) { smoke(think::fuzz::sequence, think::fuzz::sequence_seed); }

}  // namespace
