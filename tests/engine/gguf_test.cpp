#include "examples/generate/gguf.h"
#include "gguf_writer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace {

using engine_test::GgufWriter;
using engine_test::ScratchFile;
using generate::GgufFile;

uint16_t half(float value) { // exact for the values used here
  const int exponent = std::ilogb(value);
  const auto fraction = static_cast<uint16_t>((std::fabs(value) / std::ldexp(1.0f, exponent) - 1.0f) * 1024.0f);
  return static_cast<uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 15) << 10 | fraction);
}

std::vector<float> load(const GgufWriter &writer, const std::string &name, int64_t rows, int64_t columns) {
  const ScratchFile file(writer.bytes());
  std::vector<float> out;
  GgufFile(file.path()).append_f32(name, rows, columns, out);
  return out;
}

TEST(Gguf, ReadsF32) {
  GgufWriter writer;
  writer.add_tensor("t", {2, 3}, 0, GgufWriter::raw(1.0f) + GgufWriter::raw(-2.5f) + GgufWriter::raw(3.0f) + GgufWriter::raw(0.0f) + GgufWriter::raw(1e30f) + GgufWriter::raw(-1e-30f));
  EXPECT_EQ(load(writer, "t", 3, 2), (std::vector<float>{1.0f, -2.5f, 3.0f, 0.0f, 1e30f, -1e-30f}));
}

TEST(Gguf, ReadsF16WithSubnormalsAndInfinity) {
  GgufWriter writer;
  std::string data;
  for (const uint16_t bits : {0x3c00, 0xc500, 0x0001, 0x83ff, 0x7bff, 0x0400, 0x8000, 0x7c00}) data += GgufWriter::raw(bits);
  writer.add_tensor("t", {8}, 1, data);
  const std::vector<float> found = load(writer, "t", 1, 8);
  EXPECT_EQ(found, (std::vector<float>{1.0f, -5.0f, std::ldexp(1.0f, -24), -std::ldexp(1023.0f, -24), 65504.0f, std::ldexp(1.0f, -14), -0.0f, INFINITY}));
  EXPECT_TRUE(std::signbit(found[6]));
}

TEST(Gguf, ReadsQ8) {
  GgufWriter writer;
  std::string data;
  for (const float scale : {0.5f, -0.25f}) {
    data += GgufWriter::raw(half(scale));
    for (int i = 0; i < 32; ++i) data += GgufWriter::raw(static_cast<int8_t>(i * 8 - 128));
  }
  writer.add_tensor("t", {32, 2}, 8, data);
  const std::vector<float> found = load(writer, "t", 2, 32);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(found[static_cast<size_t>(i)], 0.5f * static_cast<float>(i * 8 - 128));
    EXPECT_EQ(found[static_cast<size_t>(32 + i)], -0.25f * static_cast<float>(i * 8 - 128));
  }
}

TEST(Gguf, ReadsQ4WithMinimum) {
  GgufWriter writer;
  std::string data = GgufWriter::raw(half(0.125f)) + GgufWriter::raw(half(-1.5f));
  for (int i = 0; i < 16; ++i) data += static_cast<char>(i | (15 - i) << 4); // low nibble: element i, high nibble: element i + 16
  writer.add_tensor("t", {32}, 3, data);
  const std::vector<float> found = load(writer, "t", 1, 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(found[static_cast<size_t>(i)], 0.125f * static_cast<float>(i) - 1.5f);
    EXPECT_EQ(found[static_cast<size_t>(i + 16)], 0.125f * static_cast<float>(15 - i) - 1.5f);
  }
}

TEST(Gguf, ReadsMetadata) {
  GgufWriter writer;
  writer.add_u32("a", 7);
  writer.add_f32("b", 0.5f);
  writer.add_text("c", "text");
  writer.add_texts("d", {"x", "", "yz"});
  writer.add_numbers("e", {1, 2, 3});
  const ScratchFile file(writer.bytes());
  const GgufFile gguf(file.path());
  EXPECT_EQ(gguf.integer("a"), 7);
  EXPECT_EQ(gguf.number("b"), 0.5);
  EXPECT_EQ(gguf.number("a"), 7.0);
  EXPECT_EQ(gguf.text("c"), "text");
  EXPECT_EQ(gguf.texts("d"), (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(gguf.numbers("e"), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(gguf.integer_or("none", 5), 5);
  EXPECT_THROW(gguf.integer("none"), std::runtime_error);
  EXPECT_THROW(gguf.integer("c"), std::runtime_error);
  EXPECT_THROW(gguf.text("a"), std::runtime_error);
}

TEST(Gguf, RefusesWrongTensors) {
  GgufWriter writer;
  writer.add_tensor("f32", {4}, 0, std::string(16, '\0'));
  writer.add_tensor("q4k", {256}, 12, std::string(144, '\0'));
  writer.add_tensor("half_block", {16}, 8, std::string(34, '\0'));
  writer.add_tensor("long", {1 << 20}, 0, std::string(16, '\0'));
  const ScratchFile file(writer.bytes());
  const GgufFile gguf(file.path());
  std::vector<float> out;
  EXPECT_THROW(gguf.append_f32("none", 1, 4, out), std::runtime_error);
  EXPECT_THROW(gguf.append_f32("f32", 1, 5, out), std::runtime_error);
  EXPECT_THROW(gguf.append_f32("f32", 2, 2, out), std::runtime_error);
  EXPECT_THROW(gguf.append_f32("q4k", 1, 256, out), std::runtime_error);
  EXPECT_THROW(gguf.append_f32("half_block", 1, 16, out), std::runtime_error);
  EXPECT_THROW(gguf.append_f32("long", 1, 1 << 20, out), std::runtime_error);
  EXPECT_TRUE(out.empty());
}

// Every cut of a file is refused when it is opened or when its tensor is read, and no byte that is changed makes it crash.
TEST(Gguf, SurvivesCutAndChangedFiles) {
  GgufWriter writer;
  writer.add_u32("general.alignment", 32);
  writer.add_texts("d", {"x", "yz"});
  writer.add_numbers("e", {1, 2, 3});
  writer.add_tensor("t", {32, 2}, 8, std::string(68, '\1'));
  const std::string whole = writer.bytes();
  const auto read = [](const std::string &bytes) {
    const ScratchFile file(bytes);
    std::vector<float> out;
    GgufFile(file.path()).append_f32("t", 2, 32, out);
  };
  EXPECT_NO_THROW(read(whole));
  const size_t end = whole.size() - (96 - 68); // the padding behind the last tensor is not needed
  EXPECT_NO_THROW(read(whole.substr(0, end)));
  for (size_t length = 0; length < end; ++length) EXPECT_THROW(read(whole.substr(0, length)), std::runtime_error) << length;
  for (size_t at = 0; at < whole.size(); ++at)
    for (const char value : {'\0', '\1', '\x7f', '\xff'}) {
      std::string changed = whole;
      changed[at] = value;
      try {
        read(changed);
      } catch (const std::runtime_error &) {
        // refused: as good as read
      }
    }
}

} // namespace
