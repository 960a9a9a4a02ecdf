// The parts of the program that need no library: numbers, npy and safetensors files, output files, the picture.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "bytes.h"
#include "failure.h"
#include "file.h"
#include "heatmap.h"
#include "kernels/common/element.h"
#include "npy.h"
#include "number.h"
#include "safetensors.h"

namespace think::cli {
namespace {

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "think_files_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string &name) const { return (folder_ / name).string(); }
  std::string contents(const std::string &name) const {
    std::ifstream file(path(name), std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

  std::filesystem::path folder_;
};

TEST(Number, ReadsEveryHalfAndBfloatLikeTheKernels) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float half = half_value(static_cast<uint16_t>(bits)), expected = f16_to_f32(static_cast<uint16_t>(bits));
    ASSERT_TRUE((std::isnan(half) && std::isnan(expected)) || float_bits(half) == float_bits(expected)) << bits;
    ASSERT_EQ(float_bits(bfloat_value(static_cast<uint16_t>(bits))), bits << 16);
  }
}

TEST(Number, FindsWhatIsNotFinite) {
  std::vector<float> numbers(100, 3e38f);
  const auto *data = reinterpret_cast<const std::byte *>(numbers.data());
  EXPECT_EQ(first_not_finite(data, THINK_F32, 100), -1);
  numbers[63] = -INFINITY;
  numbers[70] = NAN;
  EXPECT_EQ(first_not_finite(data, THINK_F32, 100), 63);
  EXPECT_EQ(first_not_finite(data, THINK_F32, 63), -1);
  const uint16_t halves[] = {0x7bff, 0xfbff, 0x0001, 0xfc00};
  EXPECT_EQ(first_not_finite(reinterpret_cast<const std::byte *>(halves), THINK_F16, 4), 3);
  const uint16_t bfloats[] = {0x7f7f, 0x7bff, 0x7fc0};
  EXPECT_EQ(first_not_finite(reinterpret_cast<const std::byte *>(bfloats), THINK_BF16, 3), 2);
}

TEST(Number, KnowsWhatHalfCanHold) {
  const float numbers[] = {65504.0f, -65519.0f, 65520.0f};
  const auto *data = reinterpret_cast<const std::byte *>(numbers);
  EXPECT_EQ(first_above_half(data, THINK_F32, 3), 2);
  EXPECT_EQ(first_above_half(data, THINK_F32, 2), -1);
  for (const float number : numbers) EXPECT_EQ(std::isinf(f16_to_f32(f32_to_f16(number))), number == 65520.0f);
}

TEST(Number, NamesPositions) {
  EXPECT_EQ(position_text({2, 3, 4}, 0), "[0, 0, 0]");
  EXPECT_EQ(position_text({2, 3, 4}, 23), "[1, 2, 3]");
  EXPECT_EQ(position_text({5}, 4), "[4]");
  EXPECT_EQ(position_text({}, 0), "[]");
}

TEST(Npy, ReadsWhatItWrites) {
  for (const std::vector<int64_t> &shape : std::vector<std::vector<int64_t>>{{}, {5}, {2, 3}, {1, 2, 3, 4}, {0, 7}, {1000000}}) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    const std::string header = npy_header("<f4", shape), file = header + std::string(static_cast<size_t>(count) * 4, 'x');
    EXPECT_EQ(header.size() % 64, 0u);
    EXPECT_EQ(header.back(), '\n');
    const NpyView view = parse_npy(bytes_of(file), "test");
    EXPECT_EQ(view.shape, shape);
    EXPECT_EQ(view.count, count);
    EXPECT_EQ(view.descr, "<f4");
    EXPECT_EQ(view.data.size(), static_cast<size_t>(count) * 4);
  }
}

TEST(Npy, ErrorsNameTheFileAndTheProblem) {
  const std::string file = npy_header("<f4", {3, 5}) + std::string(59, 'x');
  try {
    parse_npy(bytes_of(file), "some.npy");
    FAIL() << "a file that is one byte short was accepted";
  } catch (const Failure &failure) {
    EXPECT_EQ(failure.code(), kInput);
    for (const char *part : {"some.npy", "truncated", "[3, 5]", "60", "59"})
      EXPECT_NE(std::string(failure.what()).find(part), std::string::npos) << failure.what();
  }
}

TEST(Safetensors, ReadsWhatItWrites) {
  const std::string small(6, 'a'), halves(10, 'b'), wide(24, 'c');
  std::vector<NamedTensor> tensors = {{"small", "U8", {2, 3}, bytes_of(small)},
                                      {"half \"quoted\" \xc3\xa9", "F16", {5}, bytes_of(halves)},
                                      {"wide", "I64", {3}, bytes_of(wide)},
                                      {"empty", "F32", {0, 4}, {}}};
  std::string file = safetensors_header(tensors, {{"key", "line\nbreak"}});
  EXPECT_EQ(file.size() % 64, 0u);
  EXPECT_EQ(tensors[0].name, "wide") << "largest elements first";
  for (const NamedTensor &tensor : tensors) file.append(reinterpret_cast<const char *>(tensor.data.data()), tensor.data.size());
  const SafetensorsView view = parse_safetensors(bytes_of(file), "test");
  EXPECT_EQ(view.tensors.size(), 4u);
  EXPECT_EQ(view.metadata.at("key"), "line\nbreak");
  EXPECT_EQ(view.tensors.at("small").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(view.tensors.at("half \"quoted\" \xc3\xa9").data.size(), 10u);
  EXPECT_EQ(static_cast<char>(view.tensors.at("wide").data[0]), 'c');
  EXPECT_EQ(view.tensors.at("empty").data.size(), 0u);
}

TEST(Printable, EscapesControlCharacters) {
  EXPECT_EQ(printable("a\x1b[2J\n\xff"), "a\\x1b[2J\\x0a\\xff");
  EXPECT_EQ(printable(std::string(200, 'x'), 10), "xxxxxxxxxx...");
}

TEST_F(Folder, OutputAppearsOnlyWhenComplete) {
  {
    OutputFile file(path("a"));
    file.write(std::string("hello"));
    EXPECT_FALSE(std::filesystem::exists(path("a")));
    file.commit();
  }
  EXPECT_EQ(contents("a"), "hello");
  {
    OutputFile file(path("a"));
    file.write(std::string("half of"));
  }
  EXPECT_EQ(contents("a"), "hello") << "what is not committed replaces nothing";
  EXPECT_EQ(files(), 1u) << "and leaves nothing behind";
}

TEST_F(Folder, OutputThroughALinkReplacesItsTarget) {
  std::ofstream(path("target")) << "old";
  std::filesystem::create_symlink(path("target"), path("link"));
  OutputFile file(path("link"));
  file.write(std::string("new"));
  file.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(contents("target"), "new");
}

TEST_F(Folder, OutputHasOrdinaryPermissions) {
  const mode_t mask = umask(027);
  {
    OutputFile file(path("a"));
    file.commit();
  }
  umask(mask);
  struct stat info;
  ASSERT_EQ(stat(path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST_F(Folder, ASignalRemovesUnfinishedOutput) {
  EXPECT_EXIT(
      {
        OutputFile first(path("a"));
        OutputFile second(path("b"));
        first.write(std::string("half of"));
        raise(SIGTERM);
      },
      testing::KilledBySignal(SIGTERM), "");
  EXPECT_EQ(files(), 0u);
}

TEST_F(Folder, RefusesOutputsThatAreInputs) {
  std::ofstream(path("in")) << "x";
  std::filesystem::create_hard_link(path("in"), path("same"));
  const auto code = [&](const std::string &output) -> int {
    try {
      check_output(output, {path("in"), path("new")});
      return kOk;
    } catch (const Failure &failure) {
      return failure.code();
    }
  };
  EXPECT_EQ(code(path("in")), kUsage);
  EXPECT_EQ(code(path("same")), kUsage);
  EXPECT_EQ(code((folder_ / "." / "in").string()), kUsage);
  EXPECT_EQ(code(path("new")), kUsage);
  EXPECT_EQ(code(folder_.string()), kIo);
  EXPECT_EQ(code("/dev/null"), kIo);
  EXPECT_EQ(code(path("other")), kOk);
}

// A picture of every shape is drawn, with a cell per channel and no number that XML viewers cannot read.
TEST(Heatmap, DrawsAllShapes) {
  for (const int32_t heads : {1, 8, 300}) {
    for (const int32_t channels : {8, 64, 256}) {
      Layer layer;
      layer.query_heads = layer.kv_heads = heads;
      layer.tokens = 10;
      layer.dtype = THINK_F32;
      for (LayerSide *side : {&layer.key, &layer.value}) {
        side->channels = channels;
        for (int32_t head = 0; head < heads; ++head) {
          side->kept.push_back(channels / 2);
          for (int32_t channel = 0; channel < channels; ++channel) {
            side->index.push_back(channel);
            side->energy.push_back(head == 0 && channel == 0 ? 0.0f : std::pow(10.0f, static_cast<float>(channel % 40 - 20)));
          }
        }
        side->dense = Buffer(static_cast<int64_t>(10) * heads * channels * 4);
      }
      const std::string svg = draw_heatmap(layer, "x & y");
      EXPECT_NE(svg.find("x &amp; y"), std::string::npos);
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      EXPECT_EQ(svg.find("inf"), std::string::npos);
      size_t cells = 0;
      for (size_t at = svg.find("<title>head "); at != std::string::npos; at = svg.find("<title>head ", at + 1)) ++cells;
      EXPECT_EQ(cells, 2u * static_cast<size_t>(std::min(heads, 256) * channels));
    }
  }
}

}  // namespace
}  // namespace think::cli
